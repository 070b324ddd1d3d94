"""MDAN (Zhao et al., NeurIPS 2018): a discriminator for each source, and the hardest source counts most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from fercore.losses import reverse_gradient, to_float32
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Role, Settings, TaskInfo, hookimpl
from fercore_multi_source.base import ManySources, NetworkSettings, own_rows, presets


class MdanSettings(NetworkSettings):
    """Settings of mdan."""

    mode: Literal["soft", "hard"] = Field("soft", description="log-sum-exp over sources, or the largest")
    mu: float = Field(0.01, ge=0, description="weight of the discriminators")
    gamma: float = Field(10.0, gt=0, description="how near the soft form comes to the largest")


class MDAN(ManySources):
    """Sources count by how badly they are learnt and told from the target; discriminators behind a reversal."""

    paper = "Zhao et al., NeurIPS 2018"
    Settings: ClassVar[type[Settings]] = MdanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("mdan")
    settings: MdanSettings

    def head(self, width: int, num_classes: int, sources: int, dropout: float) -> nn.Module:
        """Return one head for all sources."""
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return a linear discriminator for each source."""
        return {"adversary": nn.Linear(width, len(task.sources))}

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return the bound of Theorem 3.4: errors and divergences of all sources, in one term."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            x, y = (to_float32(encoded[side, "weak"].features["main"]) for side in ("source", "target"))
            z = to_float32(encoded["source", "weak"].logits["main"])
            told = [F.softplus(sign * self.part(model, nn.Linear, "adversary")(reverse_gradient(f)))
                    for sign, f in ((-1, x), (1, y))]  # fmt: skip
            errors, distances = [], []
            for number, rows in own_rows(batch.source):
                errors.append(F.cross_entropy(z[rows], batch.source.labels[rows]))
                here = told[0][rows, number].mean()
                distances.append(here + told[1][:, number].mean() if len(y) else 0 * here)
            error, distance = torch.stack(errors), torch.stack(distances)
            if self.settings.mode == "hard":
                # The smallest discriminator's loss is the largest discrepancy.
                value = error.max() + self.settings.mu * distance.min()
            else:
                value = (self.settings.gamma * (error + self.settings.mu * distance)).logsumexp(0) / self.settings.gamma
        return [LossTerm(f"{self.name}/bound", Role.SUPERVISED, value)]
