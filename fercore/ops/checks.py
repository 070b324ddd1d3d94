"""Shape checks and the common form of the ops' arguments: a group dimension, one compute type, contiguous weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


class OpArgumentError(ValueError):
    """An op was called with tensors that do not fit together; the message says which and what was expected."""


def expect(condition: bool, message: str) -> None:
    """Raise OpArgumentError with the message unless the condition holds."""
    if not condition:
        raise OpArgumentError(message)


def compute_type(*tensors: Tensor) -> torch.dtype:
    """Return the type to compute in: the common float type of the tensors, float32 for half and bfloat16."""
    common = tensors[0].dtype
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise OpArgumentError(f"features must be floating point, got {tensor.dtype}")
        if tensor.dtype != common:
            common = torch.promote_types(common, tensor.dtype)
    # Squared distances lose all digits in half precision where rows are close.
    return torch.float32 if common in HALF else common


def check_features(x: Tensor, y: Tensor) -> None:
    """Check x f[G,N,D] against y f[Gy,M,D]: same width and device, G a multiple of Gy."""
    expect(
        x.dim() == 3 and y.dim() == 3, f"x and y must be [G,N,D] and [G,M,D], got {list(x.shape)} and {list(y.shape)}"
    )
    expect(x.shape[2] == y.shape[2], f"x and y must have the same width, got {x.shape[2]} and {y.shape[2]}")
    expect(x.device == y.device, f"x and y must be on one device, got {x.device} and {y.device}")
    groups, shared = x.shape[0], y.shape[0]
    fits = groups == shared or (shared > 0 and groups % shared == 0)
    expect(fits, f"the groups of x must be a multiple of those of y, got {groups} and {shared}")


def check_rows(name: str, tensor: Tensor | None, like: Tensor, groups: int, *, shared: bool) -> Tensor | None:
    """Check one value a row: [G,n], or [Gy,n] on y's side; return it detached."""
    if tensor is None:
        return None
    leading = {groups, like.shape[0]} if shared else {groups}
    fits = tensor.dim() == 2 and tensor.shape[0] in leading and tensor.shape[1] == like.shape[1]
    expect(fits, f"{name} must be {[groups, like.shape[1]]}, got {list(tensor.shape)}")
    expect(tensor.device == like.device, f"{name} must be on {like.device}, got {tensor.device}")
    # Weights are constants of the ops: a gradient through them would be silently wrong, not refused.
    return tensor.detach()


def check_labels(name: str, labels: Tensor | None, like: Tensor, groups: int, *, shared: bool) -> Tensor | None:
    """Check class indices: int64 [G,n], or [Gy,n] on y's side."""
    if labels is not None:
        expect(
            not labels.is_floating_point() and labels.dtype != torch.bool,
            f"{name} must be integers, got {labels.dtype}",
        )
        labels = labels.long()
    return check_rows(name, labels, like, groups, shared=shared)


def check_kernels(num_kernels: int, multiplier: float) -> None:
    """Check the family of kernels: at least one, at most 16, a positive multiplier."""
    expect(1 <= num_kernels <= 16, f"num_kernels must be in 1..16, got {num_kernels}")
    expect(0 < multiplier < math.inf, f"multiplier must be positive and finite, got {multiplier}")
