"""Target batches with trusted and untrusted samples in proportion to the two sets (released code, `DA/train.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler


def split_batch(batch: int, trusted: int, samples: int) -> tuple[int, int]:
    """Return how many trusted and untrusted samples a batch holds.

    Args:
        batch: samples a step. trusted: size of the trusted set. samples: size of the target.

    Returns:
        (b, batch - b) with b = int(batch * trusted / samples), but 1 rather than 0 where a sample is trusted.
    """
    share = batch * trusted // max(1, samples)
    if trusted:
        share = max(1, share)
    return share, batch - share


class TrustSampler(Sampler[int]):
    """Endless order in which every batch holds both parts in proportion; each part is reshuffled when it runs out.

    Args:
        trusted: bool[N]. batch: samples a step.
    """

    def __init__(self, trusted: Tensor, batch: int) -> None:
        self.trusted, self.batch = trusted.cpu(), batch

    def __iter__(self) -> Iterator[int]:
        """Yield positions of the target's samples, drawing from torch's global generator."""
        shares = split_batch(self.batch, int(self.trusted.sum()), len(self.trusted))
        parts = [_rounds(mask.nonzero().flatten(), n) for mask, n in zip(self._masks(), shares, strict=True) if n]
        while True:
            for part in parts:
                yield from next(part)

    def _masks(self) -> tuple[Tensor, Tensor]:
        return self.trusted, ~self.trusted


def _rounds(members: Tensor, share: int) -> Iterator[list[int]]:
    """Yield `share` members at a time without end; a rest smaller than that is reshuffled with the others.

    A share of more than there are is drawn from as many orders, one after another, as it takes.
    """
    orders = max(1, math.ceil(share / len(members)))
    while True:
        order = torch.cat([members[torch.randperm(len(members))] for _ in range(orders)]).tolist()
        # Whole shares alone: a rest would bring the batch out of proportion.
        for start in range(0, len(order) - share + 1, share):
            yield order[start : start + share]
