"""Methods about features alone: adaptive norms and locality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from fercore.losses import feature_norm_radius, feature_norm_step, locality, mean_entropy, to_float32
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, Role, Settings, hookimpl
from fercore_uda.base import TARGET, Adaptation, Pair, TermSettings
from fercore_uda.presets import presets


class AfnSettings(TermSettings):
    """Settings of afn."""

    weight: float = Field(0.05, ge=0, description="weight of the term")
    kind: Literal["stepwise", "hard"] = Field("stepwise", description="SAFN, or HAFN")
    step: float = Field(1.0, gt=0, description="what SAFN lets norms grow by")
    radius: float = Field(25.0, gt=0, description="mean norm that HAFN draws to")
    entropy: float = Field(0.0, ge=0, description="weight of the target's entropy; 0.1 in the released variant")
    bottleneck: int = Field(1000, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1, description="behind the bottleneck, keeping the expected square")


class AdaptiveFeatureNorm(Adaptation):
    """Feature norms of both sides grow, step by step or to one radius."""

    paper = "Xu et al., ICCV 2019"
    role = Role.REGULARISER
    term_name = "norm"
    Settings: ClassVar[type[Settings]] = AfnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "afn", paper={"optim": {"lr": 1e-3, "backbone_multiplier": 1.0, "schedule": "constant", "weight_decay": 5e-4}}
    )
    settings: AfnSettings

    def branch(self, channels: int) -> nn.Module:
        """Return the ordinary bottleneck with dropout that keeps the expected square of a feature."""
        return nn.Sequential(super().branch(channels), SquareKeepingDropout(self.settings.dropout))

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the sum over both sides."""
        if self.settings.kind == "hard":
            return sum((feature_norm_radius(f, self.settings.radius) for f in (pair.x, pair.y)), pair.x.new_zeros(()))
        return sum((feature_norm_step(f, self.settings.step) for f in (pair.x, pair.y)), pair.x.new_zeros(()))

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the cross-entropy, and the entropy of the target where it is asked for."""
        terms = list(super().loss(model, batch, encoded, clock))
        if self.settings.entropy:
            value = mean_entropy(to_float32(encoded[TARGET].logits["main"]))
            terms.append(LossTerm(f"{self.name}/entropy", Role.REGULARISER, value, self.settings.entropy))
        return terms


class SquareKeepingDropout(nn.Module):
    """Dropout whose output has the input's expected square, not its mean: kept values are divided by sqrt(1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows f[...], as they are in evaluation."""
        dropped: Tensor = self.drop(rows)
        # Ordinary dropout divides by 1 - p; norms, which this method is about, would shrink in evaluation.
        return dropped * (1 - self.drop.p) ** 0.5 if self.training else dropped


class LplSettings(TermSettings):
    """Settings of lpl."""

    weight: float = Field(0.003, ge=0, description="weight of the term")
    nearest: int = Field(20, ge=1, description="neighbours of the same class in the batch")


class LocalityPreserving(Adaptation):
    """Source features lie near the mean of their nearest ones of the same class; the target is not looked at."""

    paper = "Li et al., CVPR 2017"
    role = Role.REGULARISER
    term_name = "locality"
    Settings: ClassVar[type[Settings]] = LplSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("lpl")

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the locality of the source's features."""
        return locality(pair.x, pair.labels, self.settings.nearest)
