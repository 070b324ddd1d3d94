"""Agreement of two views' predictions (LA-CMFER, ACM MM 2024, Eqs 10-11 and Table S.3)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fercore.ops import mpc_consistency


def mutual_consistency(
    first: Tensor,
    second: Tensor,
    *,
    inputs: Literal["prob", "logit"] = "prob",
    form: Literal["abs", "offdiag"] = "abs",
) -> Tensor:
    """Distance of the two views' class-correlation matrix from the identity (LA-CMFER Eqs 10-11).

    Args:
        first, second: f[B,K] logits of the two views.
        inputs: "prob" = their softmax (the paper); "logit" = as they are (the released code).
        form: "abs" = Eq 11; "offdiag" = the off-diagonal mass of the released code, half of that on probabilities.

    Returns:
        Scalar; in [0, 2 - 2/K] or so for "prob", unbounded for "logit".
    """
    if inputs == "prob":
        first, second = first.softmax(-1), second.softmax(-1)
    return mpc_consistency(first, second, form=form)


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences, mean over the batch; f[B,K] logits -> scalar (Table S.3)."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    one, other = (F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p)))
    return (one + other) / 2


def mean_absolute(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference of logits f[B,K]; scalar (Table S.3, "L1")."""
    return F.l1_loss(first, second)


def mean_squared(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of logits f[B,K]; scalar (Table S.3, "MSE")."""
    return F.mse_loss(first, second)
