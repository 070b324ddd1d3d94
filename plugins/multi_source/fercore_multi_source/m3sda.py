"""M3SDA (Peng et al., ICCV 2019): moments of all domains meet; its beta form parts two heads of each source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fercore.losses import mean_difference, moment_distance, to_float32
from fercore.models import Model
from fercore.plugin import (
    Batch,
    Forward,
    LossTerm,
    ParamGroup,
    Phase,
    Progress,
    Role,
    RunConfig,
    Settings,
    Stage,
    hookimpl,
    single_stage,
)
from fercore_multi_source.base import Heads, ManySources, NetworkSettings, own_rows, presets

FIT, PART, MEET = "fit", "part", "meet"


class M3sdaSettings(NetworkSettings):
    """Settings of m3sda."""

    weight: float = Field(0.5, ge=0, description="of the moments")
    moments: int = Field(2, ge=1, le=5, description="last moment that meets")
    pairs: Literal["together", "apart"] = Field(
        "together",
        description="one mean over all pairs of domains; or one over sources with the target, one of sources",
    )


class M3SDA(ManySources):
    """Means and variances of every two domains meet; a head for each source."""

    paper = "Peng et al., ICCV 2019"
    Settings: ClassVar[type[Settings]] = M3sdaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("m3sda")
    settings: Any

    @hookimpl
    def align(self, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the distance of the moments; none without both sides."""
        x, y = _features(encoded)
        if not len(x) or not len(y):
            return []
        with torch.autocast(x.device.type, enabled=False):
            sources = [x[rows] for _, rows in own_rows(batch.source)]
            together = self.settings.pairs == "together"
            value = moment_distance(sources, y, self.settings.moments, together=together)
        return [LossTerm(f"{self.name}/moments", Role.ALIGNMENT, value, self.settings.weight)]

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return each source's cross-entropy with its own heads."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            return [self.supervised(model, _features(encoded)[0], batch.source)]


class BetaSettings(M3sdaSettings):
    """Settings of m3sda_beta."""

    steps: int = Field(4, ge=1, description="of the features, on each batch")


class M3SDABeta(M3SDA):
    """M3SDA with two heads of each source that part over the target while the features bring them together."""

    Settings: ClassVar[type[Settings]] = BetaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "m3sda_beta", paper={"optim": {"lr": 2e-3, "schedule": "cosine", "backbone_multiplier": 1.0}}
    )
    copies = 2

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Lay out MCD's three phases of one optimiser."""
        stage, clip = single_stage(config), config.optim.clip_grad_norm
        part = Phase(PART, (ParamGroup(("heads.",)),), clip_grad_norm=clip, shares=FIT)
        network = ParamGroup(("backbone.", "branches."))
        meet = Phase(MEET, (network,), clip_grad_norm=clip, shares=FIT, repeats=self.settings.steps)
        return [replace(stage, phases=(replace(stage.phases[0], name=FIT), part, meet))]

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:  # type: ignore[override]
        """Return the moments while everything learns; then the distance of each source's two heads on the target."""
        if clock.phase == FIT:
            return super().align(batch, encoded, clock)
        y, heads = _features(encoded)[1], model.heads["main"]
        if not len(y):
            return []
        assert isinstance(heads, Heads)
        with torch.autocast(y.device.type, enabled=False):
            first, second = to_float32(heads.every(y)).softmax(-1).chunk(2)
            present = [number for number, _ in own_rows(batch.source)]
            value = mean_difference(first[present].flatten(0, 1), second[present].flatten(0, 1))
        return [LossTerm(f"{self.name}/disagreement", Role.ADVERSARIAL, -value if clock.phase == PART else value)]

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the cross-entropy of both heads of each source, where heads learn."""
        return [] if clock.phase == MEET else super().loss(model, batch, encoded, clock)


def _features(encoded: Forward) -> tuple[Tensor, Tensor]:
    x, y = (to_float32(encoded[side, "weak"].features["main"]) for side in ("source", "target"))
    return x, y
