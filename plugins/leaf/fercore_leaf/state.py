"""What a run of leaf keeps: class thresholds, and counts of an epoch for the log."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunState(nn.Module):
    """Class thresholds and counts.

    Args:
        num_classes: K. floor: first threshold of every class.

    Attributes:
        thresholds: f[K] buffer. counts: int64[4] buffer, in the order of `NAMES`.
    """

    NAMES = ("samples", "candidates", "all_candidates", "selected")

    thresholds: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, floor: float) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.full((num_classes,), floor))
        self.register_buffer("counts", torch.zeros(len(self.NAMES), dtype=torch.int64))

    def add(self, positive: Tensor, selected: Tensor) -> None:
        """Count a batch: bool[B,K] candidates and bool[B] selected samples, without waiting for the device."""
        # Summed on the device and read once an epoch: reading every step would make the host wait for it.
        size, whole = positive.new_tensor(len(positive), dtype=torch.int64), positive.all(-1).sum()
        self.counts += torch.stack([size, positive.sum(), whole, selected.sum()])

    def take(self) -> dict[str, float]:
        """Return the means since the last call and begin again: candidates a sample, shares of samples."""
        samples, *rest = self.counts.tolist()
        self.counts.zero_()
        return {name: value / samples for name, value in zip(self.NAMES[1:], rest, strict=True)} if samples else {}
