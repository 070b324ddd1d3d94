"""An equation as a method has it against the same in slow NumPy, written from the paper: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEP = 1e-6
"""Of the central differences, relative to the size of the number that is moved (at least 1)."""


def compare_with_literal(
    ours: Callable[..., Tensor],
    paper: Callable[..., Any],
    *inputs: Any,
    rel: float = 1e-9,
    slope_rel: float = 1e-5,
    constant: tuple[int, ...] = (),
) -> None:
    """Compare a function of tensors with a literal one of NumPy arrays, in float64.

    Where the value is no scalar, gradients are those of its sum with fixed weights. Differences are central ones of
    `paper`, so that an operation whose gradient was cut by mistake (`detach`) is seen.

    Args:
        ours: maps tensors to a tensor. paper: maps the same as arrays to a number or an array.
        inputs: arrays, sequences or tensors; floating ones are taken in float64 and differentiated, others as given.
        rel: largest relative difference of values. slope_rel: of gradients.
        constant: places of floating inputs that the paper does not differentiate.

    Raises:
        AssertionError: naming the input whose gradient differs, and by how much.
    """
    arrays = [_array(value) for value in inputs]
    leaves = [torch.tensor(array) for array in arrays]
    moved = [i for i, leaf in enumerate(leaves) if leaf.is_floating_point() and i not in constant]
    for i in moved:
        leaves[i].requires_grad_(True)
    value = ours(*leaves)
    expected = np.asarray(paper(*[array.copy() for array in arrays]), dtype=np.float64)
    _close(value.detach().double().numpy(), expected, rel, "values")
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape) if expected.ndim else np.ones(())
    if not moved:
        return
    assert value.requires_grad, "the value has no gradient; name its inputs in `constant` if that is meant"
    total = (value.double() * torch.from_numpy(weights)).sum()
    gradients = torch.autograd.grad(total, [leaves[i] for i in moved], allow_unused=True)
    for i, gradient in zip(moved, gradients, strict=True):
        slope = _differences(paper, arrays, i, weights)
        ours_slope = np.zeros_like(slope) if gradient is None else gradient.numpy()
        _close(ours_slope, slope, slope_rel, f"gradients by input {i}")


def _array(value: Any) -> np.ndarray:
    array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array


def _differences(paper: Callable[..., Any], arrays: list[np.ndarray], place: int, weights: np.ndarray) -> np.ndarray:
    slope = np.zeros_like(arrays[place])
    for at in np.ndindex(*slope.shape):
        step = STEP * max(1.0, abs(float(arrays[place][at])))
        ends = []
        for sign in (1, -1):
            inputs = [array.copy() for array in arrays]
            inputs[place][at] += sign * step
            ends.append(float((np.asarray(paper(*inputs), dtype=np.float64) * weights).sum()))
        slope[at] = (ends[0] - ends[1]) / (2 * step)
    return slope


def _close(value: np.ndarray, expected: np.ndarray, rel: float, what: str) -> None:
    assert value.shape == expected.shape, f"{what}: shape {value.shape} against {expected.shape} in the literal form"
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    largest = float(np.abs(value - expected).max(initial=0.0)) / scale
    assert largest <= rel, f"{what} differ by {largest:.1e} of their size, at most {rel:.0e} is let pass"
