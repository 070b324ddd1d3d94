"""Batches of triplets: which samples either side of a step draws, and where a step's triplets stand in its batch.

A step holds a triplets with a source anchor and b with a target anchor:

    source side: a anchors | b positives | b negatives | others
    target side: a positives | a negatives | b anchors | others
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Order(Sampler[int]):
    """Samples in the order in which the epoch's steps draw them.

    Args:
        order: int64[m].
    """

    def __init__(self, order: Tensor) -> None:
        self.order = order.cpu()

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())


@dataclass(frozen=True)
class Layout:
    """Where a step's triplets stand in its batch: a with a source anchor, b with a target anchor."""

    a: int
    b: int

    def source_anchored(self) -> tuple[slice, slice, slice]:
        """Return (anchors on the source side, positives, negatives on the target side)."""
        return slice(0, self.a), slice(0, self.a), slice(self.a, 2 * self.a)

    def target_anchored(self) -> tuple[slice, slice, slice]:
        """Return (anchors on the target side, positives, negatives on the source side)."""
        a, b = self.a, self.b
        return slice(2 * a, 2 * a + b), slice(a, a + b), slice(a + b, a + 2 * b)


def triplets_a_step(
    source_batch: int, target_batch: int, anchors: Literal["source", "target", "both"]
) -> tuple[int, int]:
    """Return how many triplets with a source and with a target anchor a step's images make."""
    if anchors == "source":
        return min(source_batch, target_batch // 2), 0
    if anchors == "target":
        return 0, min(target_batch, source_batch // 2)
    # A triplet with a source anchor takes one source and two target images,
    # its counterpart the reverse: three on either side for a pair of them.
    each = min(source_batch, target_batch) // 3
    return each, each


def draw(n: int, count: int, weights: Tensor | None = None) -> Tensor:
    """Return int64[count] draws out of n from torch's generator: pass after pass in random order, or by weights.

    Args:
        n: at least 1. weights: float[n] to draw with replacement by; None = equal.
    """
    if weights is not None and count:
        return torch.multinomial(weights.double(), count, replacement=True)
    passes = [torch.randperm(n) for _ in range(-(-count // n))]
    # An empty tensor more, so that no pass at all can be joined too.
    return torch.cat([*passes, torch.zeros(0, dtype=torch.int64)])[:count]


def balance(labels: Tensor, domain: Tensor, *, by_class: bool, by_domain: bool) -> Tensor | None:
    """Return weights float[N] that draw domains, classes, or both equally often; None where nothing is uneven.

    Args:
        labels: int64[N]. domain: int64[N].
    """
    by_domain = by_domain and len(torch.unique(domain)) > 1
    if not by_class:
        return 1 / _size_of_own(domain) if by_domain else None
    if not by_domain:
        return 1 / _size_of_own(labels)
    pairs = torch.unique(torch.stack([domain, labels], dim=1), dim=0)
    classes = torch.bincount(pairs[:, 0]).float()
    # Domains equally often, and inside each the classes that it has: 1 / (classes of the domain * samples of the pair).
    return 1 / (classes[domain] * _size_of_own(domain * (int(labels.max()) + 1) + labels))


def _size_of_own(group: Tensor) -> Tensor:
    """Return float[N]: how many samples are in each sample's group."""
    groups: tuple[Tensor, Tensor, Tensor] = torch.unique(group, return_inverse=True, return_counts=True)
    return groups[2][groups[1]].float()


def plan_epoch(
    source_triplets: Tensor,
    target_triplets: Tensor,
    *,
    sizes: tuple[int, int],
    batch: tuple[int, int],
    shares: tuple[int, int],
    steps: int,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return int64[steps * batch] of both sides: which samples each step draws.

    Triplets are drawn pass after pass, or by their source anchor's weight; with fewer of them than a step needs they
    come again (a target smaller than its batch).

    Args:
        source_triplets, target_triplets: int64[3,T] anchor, positive, negative.
        sizes: samples of source and target. batch: images a step. shares: triplets a step, 0 where there are none.
        steps: of the epoch. weights: float[Ns] of the source samples, or None.
    """
    a, b = shares
    by_anchor = None if weights is None or not a else weights[source_triplets[0]]
    first = source_triplets[:, draw(source_triplets.shape[1], steps * a, by_anchor)] if a else source_triplets[:, :0]
    second = target_triplets[:, draw(target_triplets.shape[1], steps * b)] if b else target_triplets[:, :0]
    s_anchor, s_positive, s_negative = (rows.view(steps, a) for rows in first)
    t_anchor, t_positive, t_negative = (rows.view(steps, b) for rows in second)
    fill = [size - used for size, used in zip(batch, (a + 2 * b, 2 * a + b), strict=True)]
    others_s = draw(sizes[0], steps * fill[0], weights).view(steps, fill[0])
    others_t = draw(sizes[1], steps * fill[1]).view(steps, fill[1])
    source = torch.cat([s_anchor, t_positive, t_negative, others_s], dim=1)
    target = torch.cat([s_positive, s_negative, t_anchor, others_t], dim=1)
    return source.reshape(-1), target.reshape(-1)
