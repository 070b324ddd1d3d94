"""FreeMatch (Wang et al., ICLR 2023, Eqs 5-11): thresholds that follow the network's own confidence, and fairness.

Defaults: USB, semilearn/algorithms/freematch (momentum 0.999, T 0.5, hard labels) and its published configurations,
all of which weigh fairness by 0.001 (0.01 is the default of the code's argument); the running means begin at 1/K, as in
the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import self_adaptive_fairness, self_adaptive_thresholds
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Role, Settings
from fercore_ssl.base import ThresholdMethod, ThresholdSettings, logits
from fercore_ssl.presets import presets


class FreeMatchSettings(ThresholdSettings):
    """Settings of freematch."""

    ema_p: float = Field(0.999, ge=0, lt=1, description="momentum of the running means")
    ent_loss_ratio: float = Field(0.001, ge=0, description="weight of the fairness term")
    use_quantile: bool = Field(False, description="the confidences' 80 % quantile in place of their mean")
    clip_thresh: bool = Field(False, description="global threshold at most 0.95")


class RunningMeans(nn.Module):
    """Running means of the weak views.

    Attributes:
        level: scalar, mean confidence (tau). probs: f[K], mean probabilities. histogram: f[K], shares of predictions.
    """

    level: Tensor
    probs: Tensor
    histogram: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(1 / num_classes))
        self.register_buffer("probs", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("histogram", torch.full((num_classes,), 1 / num_classes))

    def follow(self, probs: Tensor, settings: FreeMatchSettings) -> None:
        """Take in the probabilities f[B,K] of a batch (Eqs 5-7)."""
        top, labels = probs.max(-1)
        level = torch.quantile(top, 0.8) if settings.use_quantile else top.mean()
        shares = F.one_hot(labels, probs.shape[1]).to(probs.dtype).mean(0)
        rest = 1 - settings.ema_p
        self.level.lerp_(level.to(self.level.dtype), rest)
        if settings.clip_thresh:
            self.level.clamp_(0.0, 0.95)
        self.probs.lerp_(probs.mean(0).to(self.probs.dtype), rest)
        self.histogram.lerp_(shares.to(self.histogram.dtype), rest)


class FreeMatch(ThresholdMethod):
    """A global and a class threshold that rise with the confidences."""

    paper = "Wang et al., ICLR 2023"
    Settings: ClassVar[type[Settings]] = FreeMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("freematch", quick={"ema_p": 0.9})
    settings: FreeMatchSettings

    def state(self, num_classes: int) -> nn.Module:
        """Keep the running means."""
        return RunningMeans(num_classes)

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 where the largest probability reaches its class's threshold (Eqs 8-9), else 0."""
        means = self.part(model, RunningMeans)
        # Eqs 5-7 first: this batch's confidences count in the thresholds that it is held to.
        means.follow(probs, self.settings)
        top, labels = probs.max(-1)
        return top >= self_adaptive_thresholds(means.level, means.probs)[labels], probs

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return FixMatch's terms and the fairness term (Eq 11)."""
        terms = super().terms(model, batch, encoded, pseudo, clock)
        if pseudo is None or not self.settings.ent_loss_ratio:
            return terms
        means = self.part(model, RunningMeans)
        strong = logits(encoded, "target", "strong")
        value = self_adaptive_fairness(strong, pseudo.weight, means.probs, means.histogram)
        weight = self.settings.ent_loss_ratio
        return [*terms, LossTerm(f"{self.name}/fairness", Role.REGULARISER, value, weight)]
