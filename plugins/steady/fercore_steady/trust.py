"""What steady keeps between steps: how sure it has been of each class, and the class shares of the target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.losses import class_shares, confident, self_adaptive_thresholds, truncated_gaussian
from fercore_steady.settings import SteadySettings

SIGMAS = 2.0
"""SoftMatch's: weights fall to e^-2 one deviation below the mean."""


class Confidences(nn.Module):
    """Running confidences of the teacher on the target's weak views.

    Attributes:
        level: scalar, mean largest probability. probs: f[K], mean probabilities (FreeMatch, Eqs 5-6).
        mean, variance: f[K], of the largest probability of what is labelled as each class (SoftMatch, Eq 7, by class).
    """

    level: Tensor
    probs: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(1 / num_classes))
        self.register_buffer("probs", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("mean", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("variance", torch.ones(num_classes))

    def weigh(self, probs: Tensor, settings: SteadySettings) -> Tensor:
        """Take in the probabilities f[B,K] of a batch, and return what each sample's label counts, f[B] in [0, 1]."""
        top, labels = probs.max(-1)
        rest = 1 - settings.momentum
        self.level.lerp_(top.mean().to(self.level.dtype), rest)
        self.probs.lerp_(probs.mean(0).to(self.probs.dtype), rest)
        member = F.one_hot(labels, probs.shape[1]).to(probs.dtype)
        count = member.sum(0)
        mean = (member * top[:, None]).sum(0) / count.clamp_min(1)
        variance = (member * (top[:, None] - mean).square()).sum(0) / count.clamp_min(1)
        # A class without a sample in the batch keeps what is known of it.
        share = rest * (count > 0).to(self.mean.dtype)
        self.mean.lerp_(mean.to(self.mean.dtype), share)
        self.variance.lerp_(variance.to(self.variance.dtype), share)
        if settings.trust == "fixed":
            return confident(probs, settings.threshold).to(probs.dtype)
        if settings.trust == "soft":
            return truncated_gaussian(top, self.mean[labels].to(top), self.variance[labels].to(top), SIGMAS)
        return (top >= self_adaptive_thresholds(self.level, self.probs).to(top)[labels]).to(probs.dtype)


def target_shares(probs: Tensor, source: Tensor, trust: float) -> Tensor:
    """Return class shares f[K] that predictions of the target are spread by.

    trust * q + (1 - trust) * source, q by expectation maximisation: an estimate alone confirms whatever the network
    says, and the source's shares alone are wrong where the target's are others.

    Args:
        probs: f[N,K] of the target. source: f[K], shares that the network is trained under. trust: in [0, 1].
    """
    return torch.lerp(source, class_shares(probs.to(source.dtype), source).to(source.dtype), trust)
