"""SoftMatch (Chen et al., ICLR 2023, Eqs 5-8): every sample counts, by a Gaussian cut off at the mean confidence.

Defaults: USB, semilearn/algorithms/softmatch (momentum 0.999, two sigmas, uniform alignment, hard labels, T 0.5). The
aligned probabilities give the weights, the unaligned ones the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import truncated_gaussian
from fercore.models import Model
from fercore.plugin import Batch, Forward, Settings
from fercore_ssl.alignment import Alignment
from fercore_ssl.base import ThresholdMethod, ThresholdSettings, logits
from fercore_ssl.presets import presets


class SoftMatchSettings(ThresholdSettings):
    """Settings of softmatch."""

    ema_p: float = Field(0.999, ge=0, lt=1, description="momentum of the running means")
    n_sigma: float = Field(2.0, gt=0, description="width of the Gaussian: its deviation is divided by this")
    per_class: bool = Field(False, description="mean and variance of each class")
    dist_align: bool = Field(True, description="weigh by aligned probabilities")
    dist_uniform: bool = Field(True, description="align to the uniform distribution; false = the labelled one")


class ConfidenceMoments(nn.Module):
    """Running mean and variance of the confidences, and the alignment.

    Attributes:
        mean, variance: f[1], or f[K] where each class has its own.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, num_classes: int, *, per_class: bool) -> None:
        super().__init__()
        size = num_classes if per_class else 1
        self.register_buffer("mean", torch.full((size,), 1 / num_classes))
        # So wide that at first every sample counts nearly in full.
        self.register_buffer("variance", torch.ones(size))
        self.alignment = Alignment(num_classes)

    def weigh(self, probs: Tensor, momentum: float, sigmas: float) -> Tensor:
        """Take in a batch of probabilities f[B,K], and return the weights f[B] (Eqs 6-8)."""
        top, labels = probs.max(-1)
        # One place for all where classes share their moments, so that the sums below serve both.
        place = labels if len(self.mean) > 1 else torch.zeros_like(labels)
        # Taken in before it is weighed: a batch counts in its own mean and variance.
        mean, variance = _moments(top, place, len(self.mean))
        self.mean.lerp_(mean.to(self.mean.dtype), 1 - momentum)
        self.variance.lerp_(variance.to(self.variance.dtype), 1 - momentum)
        return truncated_gaussian(top, self.mean[place].to(top.dtype), self.variance[place].to(top.dtype), sigmas)


def _moments(values: Tensor, place: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance of each place's values; 0 and 1 where it has fewer than two (as USB does)."""
    member = F.one_hot(place, size).to(values.dtype)
    count = member.sum(0)
    mean = (values[:, None] * member).sum(0) / count.clamp_min(1)
    variance = ((values[:, None] - mean).square() * member).sum(0) / (count - 1).clamp_min(1)
    some = count > 1
    return torch.where(some, mean, torch.zeros_like(mean)), torch.where(some, variance, torch.ones_like(mean))


class SoftMatch(ThresholdMethod):
    """Weights between 0 and 1 in place of a threshold."""

    paper = "Chen et al., ICLR 2023"
    Settings: ClassVar[type[Settings]] = SoftMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("softmatch", quick={"ema_p": 0.9})
    settings: SoftMatchSettings

    def state(self, num_classes: int) -> nn.Module:
        """Keep the moments of the confidences."""
        return ConfidenceMoments(num_classes, per_class=self.settings.per_class)

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Gaussian weights, and the probabilities as they are."""
        state, chosen = self.part(model, ConfidenceMoments), self.settings
        aligned = probs
        if chosen.dist_align:
            labelled = None if chosen.dist_uniform else logits(encoded, "source", "weak").softmax(-1)
            aligned = state.alignment.align(probs, chosen.ema_p, labelled)
        return state.weigh(aligned, chosen.ema_p, chosen.n_sigma), probs
