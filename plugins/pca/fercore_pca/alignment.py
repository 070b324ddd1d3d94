"""Image-guided alignment: images look at the class centres of both domains (Eqs 9-10 and the fusion after them)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.losses import unit


def attend(queries: Tensor, keys: Tensor, values: Tensor, eps: float, allowed: Tensor) -> Tensor:
    """Mix the values of class centres: softmax(Q K^T / eps) V (Eq 10).

    Args:
        queries: f[B,d]. keys, values: f[C,d]. eps: above 0. allowed: bool[C], centres that take part, one at least.

    Returns:
        f[B,d].

    Raises:
        ValueError: for eps that is not above 0.
    """
    if not eps > 0:
        raise ValueError(f"eps must be above 0, got {eps}")
    # Centres without a feature get no weight, rather than a weight for a zero vector.
    scores = (queries @ keys.mT / eps).masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1) @ values


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation that takes its running statistics for a single row, which has no variance."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise f[B,h]."""
        if len(input) > 1 or not self.training:
            normalised: Tensor = super().forward(input)
            return normalised
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class ImageGuidedAlignment(nn.Module):
    """f_pr and f_po, shared by images and centres, by both domains.

    Args:
        dim: d. hidden: inner width h of f_pr. norm: normalisation in f_pr. eps: divisor in the attention.
        start: f_po at first, random or zero.

    Attributes:
        project: f_pr, three layers d -> h -> h -> 3d. back: f_po, one layer d -> d.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        norm: Literal["layer", "batch"] = "layer",
        eps: float = 10.0,
        start: Literal["random", "zero"] = "random",
    ) -> None:
        super().__init__()
        kind = nn.LayerNorm if norm == "layer" else RowNorm
        self.project = nn.Sequential(
            nn.Linear(dim, hidden),
            kind(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            kind(hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3 * dim),
        )
        self.back = nn.Linear(dim, dim)
        self.eps = eps
        if start == "zero":
            # Nothing is added to the image at first: x' begins as twice x_v of length 1.
            nn.init.zeros_(self.back.weight)
            nn.init.zeros_(self.back.bias)

    def forward(self, features: Tensor, centres: Tensor, allowed: Tensor) -> Tensor:
        """Align images with the centres of both domains.

        Args:
            features: f[B,d], x_v; brought to length 1 first, as the centres' features were.
            centres: f[2,C,d] of source and target. allowed: bool[2,C], centres that take part.

        Returns:
            x' f[B,d] = norm(x + xa_sc) + norm(x + xa_tc).
        """
        x = unit(features)
        # Of images only the queries are used, of centres keys and values.
        queries = self.project(x).chunk(3, dim=-1)[0]
        halves = []
        for own, takes_part in zip(centres.to(x.dtype), allowed, strict=True):
            _, keys, values = self.project(own).chunk(3, dim=-1)
            halves.append(unit(x + self.back(attend(queries, keys, values, self.eps, takes_part))))
        return halves[0] + halves[1]
