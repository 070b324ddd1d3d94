"""What adafer keeps in the model: what it knows of both domains, the margin, and the AU inputs of baseline #5."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.models import SizedByData

MOST_UNITS = 64
ROWS_AT_ONCE = 1024
"""Columns of the AU inputs of baseline #5; the run's units come first, the rest is 0."""


class State(SizedByData):
    """Action units of both domains, pseudo labels of the target, this epoch's triplets and the order of its batches.

    Args:
        num_classes: K.

    Attributes:
        source_scores, target_scores: float[N,A]. source_codes, target_codes: uint8[N,A].
        source_labels: int64[Ns]. source_domain: int64[Ns].
        q: float[Nt,K] T-soft. t_hard: int64[Nt]. s_hard: int64[Nt], redrawn where the conflict rule draws.
        matched: bool[Nt]: which targets have a pseudo label.
        triplets_source, triplets_target: int64[3,T] anchor, positive, negative; by the anchors' domain.
        order_source, order_target: int64[E * batch]: which samples the steps of the epoch draw.
        layout: int64[2]: triplets of either kind in a step.
        known, annotated, mined, warned: what has been done.
    """

    source_scores: Tensor
    target_scores: Tensor
    source_codes: Tensor
    target_codes: Tensor
    source_labels: Tensor
    source_domain: Tensor
    q: Tensor
    t_hard: Tensor
    s_hard: Tensor
    matched: Tensor
    triplets_source: Tensor
    triplets_target: Tensor
    order_source: Tensor
    order_target: Tensor
    layout: Tensor
    known: Tensor
    annotated: Tensor
    mined: Tensor
    warned: Tensor

    def __init__(self, num_classes: int) -> None:
        def ints(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int64)

        def flag(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.bool)

        scores = {f"{side}_scores": torch.zeros(0, 0) for side in ("source", "target")}
        codes = {f"{side}_codes": torch.zeros(0, 0, dtype=torch.uint8) for side in ("source", "target")}
        lists = {name: ints(0) for name in ("source_labels", "source_domain", "t_hard", "s_hard")}
        mined = {name: ints(3, 0) for name in ("triplets_source", "triplets_target")}
        orders = {name: ints(0) for name in ("order_source", "order_target")}
        labels = {"q": torch.zeros(0, num_classes), "matched": flag(0)}
        flags = {name: flag() for name in ("known", "annotated", "mined")}
        super().__init__({**scores, **codes, **lists, **mined, **orders, **labels, **flags, "layout": ints(2)})
        self.register_buffer("warned", flag(2))

    @property
    def shares(self) -> tuple[int, int]:
        """Source-anchored and target-anchored triplets in a step."""
        first, second = self.layout.tolist()
        return int(first), int(second)


class Margin(nn.Module):
    """A margin that learns: floor + softplus(theta).

    Args:
        value: at first. floor: it stays above.
    """

    def __init__(self, value: float, floor: float) -> None:
        super().__init__()
        self.floor, self.start = floor, value
        # The inverse of softplus: the margin starts at `value`.
        self.theta = nn.Parameter(torch.tensor(math.log(math.expm1(value - floor))))

    def forward(self) -> Tensor:
        """Return the margin, a positive scalar."""
        return self.floor + F.softplus(self.theta)


class UnitHead(nn.Module):
    """The AU part of a linear classifier on image features and AU scores together (baseline #5)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(MOST_UNITS, num_classes, bias=False)

    def forward(self, scores: Tensor) -> Tensor:
        """Map scores float[B,A], NaN where unknown, to their share of the logits float[B,K]."""
        out: Tensor = self.linear(F.pad(scores.nan_to_num(), (0, MOST_UNITS - scores.shape[1])))
        return out


class CodeTable(SizedByData):
    """Class shares of every AU code of the source (baseline #2).

    Attributes:
        codes: uint8[U,A]. shares: float[U,K]. prior: float[K] of the whole source.
    """

    codes: Tensor
    shares: Tensor
    prior: Tensor

    def __init__(self, num_classes: int) -> None:
        empty = {"codes": torch.zeros(0, 0, dtype=torch.uint8), "shares": torch.zeros(0, num_classes)}
        super().__init__({**empty, "prior": torch.full((num_classes,), 1 / num_classes)})

    def fit(self, codes: Tensor, labels: Tensor) -> None:
        """Count the classes of each code.

        Args:
            codes: uint8[N,A]. labels: int64[N].
        """
        unique, where = torch.unique(codes, dim=0, return_inverse=True)
        counts = torch.zeros(len(unique), len(self.prior), device=codes.device)
        counts.index_put_((where, labels), torch.ones(len(labels), device=codes.device), accumulate=True)
        self.put("codes", unique)
        self.put("shares", counts / counts.sum(dim=1, keepdim=True))
        self.put("prior", counts.sum(dim=0) / counts.sum())

    def forward(self, scores: Tensor, codes: Tensor, *, nearest: bool) -> tuple[Tensor, Tensor]:
        """Look codes up.

        Args:
            scores: float[B,A], NaN where nothing is known. codes: uint8[B,A].
            nearest: take the nearest codes' shares where a code is not there, else the whole source's.

        Returns:
            shares float[B,K], and bool[B]: which codes are there.
        """
        shares, exact = self._nearest(codes)
        known = ~scores.isnan().any(dim=1)
        covered = known & exact
        used = known if nearest else covered
        return torch.where(used[:, None], shares, self.prior), covered

    def look_up_all(self, scores: Tensor, codes: Tensor, *, nearest: bool) -> tuple[Tensor, Tensor]:
        """Look the codes of a whole dataset up, as `forward` does those of a batch, in memory that does not grow."""
        pairs = zip(torch.split(scores, ROWS_AT_ONCE), torch.split(codes, ROWS_AT_ONCE), strict=True)
        shares, covered = zip(*(self(*pair, nearest=nearest) for pair in pairs), strict=True)
        return torch.cat(shares), torch.cat(covered)

    def _nearest(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean shares float[b,K] of the nearest codes, and bool[b]: whether they are the very same."""
        asked, held = codes.to(self.shares.dtype), self.codes.to(self.shares.dtype)
        apart = asked @ (1 - held).T + (1 - asked) @ held.T  # whole numbers, exact in float
        least = apart.amin(dim=1, keepdim=True)
        closest = (apart == least).to(self.shares.dtype)
        return closest @ self.shares / closest.sum(dim=1, keepdim=True), least[:, 0] == 0
