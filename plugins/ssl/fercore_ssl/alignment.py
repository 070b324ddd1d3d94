"""Distribution alignment with running means (ReMixMatch; AdaMatch, SoftMatch)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fercore.losses import align_distribution


class Alignment(nn.Module):
    """Running class distributions of the network's predictions.

    Attributes:
        seen: f[K], of the unlabelled samples. wanted: f[K], uniform, or of the labelled samples. begun: bool.
    """

    seen: Tensor
    wanted: Tensor
    begun: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("wanted", torch.full((num_classes,), 1 / num_classes))
        self.register_buffer("begun", torch.tensor(False))

    def align(self, probs: Tensor, momentum: float, labelled: Tensor | None = None) -> Tensor:
        """Take in a batch, and return its probabilities moved towards the wanted distribution.

        Args:
            probs: f[B,K] of unlabelled samples. momentum: of the running means.
            labelled: f[B,K] predictions for labelled samples, where their mean is wanted; None = uniform.
        """
        # Before the first batch nothing has been seen: its mean is taken as it is.
        self.seen.lerp_(probs.mean(0).to(self.seen.dtype), 1 - momentum if self.begun else 1.0)
        self.begun.fill_(True)
        if labelled is not None:
            self.wanted.lerp_(labelled.mean(0).to(self.wanted.dtype), 1 - momentum)
        return align_distribution(probs, self.seen.to(probs.dtype), self.wanted.to(probs.dtype))


class RecentAlignment(nn.Module):
    """Mean predictions of the last batches, by which predictions are moved to even classes (CoMatch, SimMatch).

    Attributes:
        means: f[L,K], of the last batches, in a ring. count: int64[], batches seen.
    """

    means: Tensor
    count: Tensor

    def __init__(self, num_classes: int, length: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(length, num_classes))
        self.register_buffer("count", torch.tensor(0))

    def align(self, probs: Tensor) -> Tensor:
        """Take in a batch f[B,K], and return its probabilities moved to even classes."""
        length, seen = len(self.means), int(self.count)
        self.means[seen % length] = probs.mean(0).to(self.means.dtype)
        self.count += 1
        recent = self.means[: min(seen + 1, length)].mean(0).to(probs.dtype)
        return align_distribution(probs, recent, torch.full_like(recent, 1 / len(recent)))
