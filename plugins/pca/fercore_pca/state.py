"""What a run of pca_ifer keeps beside its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fercore.plugin import SIDES, Side

NONE = -1


class RunState(nn.Module):
    """Where a run stands.

    Args:
        labelled: number of the source domain that is the labelled part of the target; None without one.
        scale: s of Eq 7.
        include_labelled: whether the samples of that domain are among the unlabelled ones of the target too.

    Attributes:
        started: bool, the first epoch has begun.
        reading: i64, which side is run through the network whole: 0, 1 of `SIDES`; -1 = none, or another table.
        hand_crafted: bool, whether that is done with CLIP as it was loaded: no prompts.
    """

    started: Tensor
    reading: Tensor
    hand_crafted: Tensor

    def __init__(self, labelled: int | None, scale: float, *, include_labelled: bool = False) -> None:
        super().__init__()
        self.labelled, self.scale, self.include_labelled = labelled, scale, include_labelled
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("reading", torch.tensor(NONE))
        self.register_buffer("hand_crafted", torch.tensor(False))

    @contextmanager
    def read(self, side: Side, *, hand_crafted: bool) -> Iterator[None]:
        """Mark that a whole side is being encoded, for `encode` to know."""
        self.reading.fill_(SIDES.index(side))
        self.hand_crafted.fill_(hand_crafted)
        try:
            yield
        finally:
            self.reading.fill_(NONE)
            self.hand_crafted.fill_(False)

    def of_target(self, domain: Tensor) -> Tensor:
        """Return bool[B]: which samples of the source side are labelled ones of the target."""
        # No domain has the number -1.
        return domain == (NONE if self.labelled is None else self.labelled)

    def side(self) -> Side | None:
        """Return the side that is being read; None for another table, the test part."""
        number = int(self.reading)
        return None if number < 0 else SIDES[number]
