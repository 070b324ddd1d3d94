"""ICID (Ji et al., Neurocomputing 2019): what two faces of one class share, and what tells classes apart, fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, Role, Settings, hookimpl
from fercore_uda.base import SOURCE, NetworkSettings, SourceTrained, mean_of
from fercore_uda.presets import presets


class IcidSettings(NetworkSettings):
    """Settings of icid."""

    width: int = Field(100, ge=1, description="of either channel")
    dropout: float = Field(0.6, ge=0, lt=1, description="between the layers behind the fused channels")
    positive_weight: float = Field(1.0, gt=0, description="of pairs of one class, one in K by chance")


class ICID(SourceTrained):
    """One channel learns whether two faces are of one class, another learns the class, both together predict."""

    paper = "Ji et al., Neurocomputing 2019"
    Settings: ClassVar[type[Settings]] = IcidSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "icid", paper={"optim": {"lr": 1e-3, "schedule": "constant"}, "data": {"size": 112}}
    )
    settings: IcidSettings

    def head(self, width: int, num_classes: int, dropout: float) -> nn.Module:
        """Return both channels and the layers that fuse them."""
        return Channels(width, num_classes, self.settings.width, self.settings.dropout)

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the cross-entropy of both channels fused, of the second alone, and of pairs from the first."""
        channels, labels = model.heads["main"], batch.source.labels
        with torch.autocast(labels.device.type, enabled=False):
            x = to_float32(encoded[SOURCE].features["main"])
            different = channels.get_submodule("different")(x)
            own = self.supervised(channels.get_submodule("classify")(different), batch.source)
            pairs = [self._pairs(model, x[rows], labels[rows]) for rows in self.rows(batch.source)]
        return [
            *super().loss(model, batch, encoded, clock),
            LossTerm(f"{self.name}/own", Role.SUPERVISED, own),
            LossTerm(f"{self.name}/pairs", Role.SUPERVISED, mean_of(pairs)),
        ]

    def _pairs(self, model: Model, x: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy of each sample and the next in a ring; 0 where a sample is alone."""
        channels = model.heads["main"]
        common = channels.get_submodule("common")(x)
        logit: Tensor = channels.get_submodule("compare")(torch.cat([common, common.roll(-1, 0)], 1)).squeeze(1)
        same = (labels == labels.roll(-1, 0)).to(x.dtype)
        if len(x) < 2:
            return 0 * logit.sum()
        return F.binary_cross_entropy_with_logits(logit, same, pos_weight=x.new_tensor(self.settings.positive_weight))


class Channels(nn.Module):
    """Two channels of f[B,D] and what they are trained by: `common` with `compare`, `different` with `classify`.

    The fused logits are those of the channels' mean (`HCPLab-SYSU/CD-FER-Benchmark`, ICID/ResNet.py).
    """

    def __init__(self, width: int, num_classes: int, size: int, dropout: float) -> None:
        super().__init__()
        self.common, self.different = nn.Linear(width, size), nn.Linear(width, size)
        self.compare, self.classify = nn.Linear(2 * size, 1), nn.Linear(size, num_classes)
        layers: list[nn.Module] = [nn.Linear(size, num_classes)]
        for _ in range(2):
            layers += [nn.Dropout(dropout), nn.Linear(num_classes, num_classes)]
        self.fuse = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Return the fused logits f[B,K]."""
        fused: Tensor = self.fuse((self.common(features) + self.different(features)) / 2)
        return fused
