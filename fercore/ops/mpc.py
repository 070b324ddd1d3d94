"""Mutual prediction consistency of two views' probabilities (LA-CMFER Eqs 10-11)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fercore.ops import dispatch
from fercore.ops.checks import OpArgumentError, compute_type


def mpc_consistency(p: Tensor, q: Tensor, *, form: Literal["abs", "offdiag"] = "abs") -> Tensor:
    """Disagreement of two views of the same samples: C = p^T q, R = C / rowsum, R' = C^T / rowsum(C^T).

    Args:
        p: f[G,B,K] probabilities of the first view; 2-D inputs drop G and give a scalar.
        q: f[G,B,K] probabilities of the second view.
        form: "abs": (1/2K)(sum|R - I| + sum|R' - I|), Eq 11; "offdiag": the off-diagonal mass of the released
            code, half of that on probabilities.

    Returns:
        f[G], differentiable with respect to p and q. A row sum nearer to 0 than 1e-12 counts as 1e-12. The CUDA kernels
        take up to 48 classes.

    Raises:
        OpArgumentError: the shapes differ or the form is unknown.
    """
    if form not in {"abs", "offdiag"}:
        raise OpArgumentError(f"form must be 'abs' or 'offdiag', got {form!r}")
    if p.shape != q.shape or p.dim() not in {2, 3}:
        raise OpArgumentError(f"p and q must both be [G,B,K] or [B,K], got {list(p.shape)} and {list(q.shape)}")
    if p.device != q.device:
        raise OpArgumentError(f"p and q must be on one device, got {p.device} and {q.device}")
    if p.dim() == 2:
        return mpc_consistency(p[None], q[None], form=form)[0]
    dtype = compute_type(p, q)
    if p.dtype != dtype or q.dtype != dtype:
        p, q = p.to(dtype), q.to(dtype)
    return dispatch.mpc(p, q, form == "offdiag")
