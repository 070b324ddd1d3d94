"""UDA (Xie et al., NeurIPS 2020, Eq 1 and sections 2.2-2.3): the strong view learns the weak one's sharpened
prediction.

Defaults: USB, semilearn/algorithms/uda and config/usb_cv/uda (T 0.4, p_cutoff 0.8, no training signal annealing). USB
hands its temperature to a function that ignores it for probabilities, so its targets are not sharpened; here they are,
as in the paper: `T = 1` is USB's.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fercore.losses import confident
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Settings
from fercore_ssl.base import CutoffSettings, ThresholdMethod, logits

SCALE = 5.0
"""Steepness of the logarithmic and exponential annealing."""


class UDASettings(CutoffSettings):
    """Settings of uda."""

    T: float = Field(0.4, gt=0, description="temperature of the weak view's prediction")
    p_cutoff: float = Field(0.8, gt=0, le=1, description="least largest probability")
    hard_label: bool = Field(False, description="pseudo labels are classes; false = sharpened probabilities")
    tsa_schedule: Literal["none", "linear", "log", "exp"] = Field(
        "none", description="labelled samples above a rising probability are left out"
    )


class UDA(ThresholdMethod):
    """Soft pseudo labels above a threshold; optionally training signal annealing."""

    paper = "Xie et al., NeurIPS 2020"
    Settings: ClassVar[type[Settings]] = UDASettings
    settings: UDASettings

    def goes_by_length(self) -> str:
        """Annealing does."""
        return "" if self.settings.tsa_schedule == "none" else "tsa_schedule"

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 where the largest probability reaches the threshold, else 0."""
        return confident(probs, self.settings.p_cutoff), probs

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return FixMatch's terms, the labelled one only of samples that are not mastered yet."""
        terms = super().terms(model, batch, encoded, pseudo, clock)
        if self.settings.tsa_schedule == "none":
            return terms
        z = logits(encoded, "source", "weak")
        level = annealed(self.settings.tsa_schedule, clock.progress, z.shape[1])
        # The mean stays over the whole batch: the fewer are left, the weaker the term.
        kept = (z.detach().softmax(-1).amax(-1) <= level).to(z.dtype)
        value = (kept * F.cross_entropy(z, batch.source.labels, reduction="none")).mean()
        return [self._supervised(value), *terms[1:]]


def annealed(schedule: str, progress: float, num_classes: int) -> float:
    """Return the probability above which a labelled sample is left out: from 1/K to 1 (UDA, section 2.3)."""
    share = {
        "linear": progress,
        "log": 1 - math.exp(-progress * SCALE),
        "exp": math.exp((progress - 1) * SCALE),
    }[schedule]
    return share * (1 - 1 / num_classes) + 1 / num_classes
