"""Batch statistics of a network: forwards that leave no trace in them, and sides that share a forward but not them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fercore.models.model import Model
from fercore.records.step import Encoded

StatisticsOf: TypeAlias = Literal["weak", "all"]
"""Views whose batch statistics a network keeps for evaluation: all but "strong", "strong2", ..., or all."""

STRONG = "strong"


def without_bn_update(model: Model, view: str, of: StatisticsOf) -> bool:
    """Say whether a view's statistics are not to be kept: a strong view in training, unless all are wanted.

    Plain images are scored with the kept statistics, and strong views are unlike them.
    """
    return of == "weak" and view.startswith(STRONG) and model.training


def encode_view(model: Model, images: Tensor, view: str, of: StatisticsOf) -> Encoded:
    """Run the network on one view.

    Args:
        images: f[B,3,H,W]. view: its name. of: views that leave their statistics.
    """
    if without_bn_update(model, view, of):
        return forward_without_bn_update(model, images)
    encoded: Encoded = model(images)
    return encoded


def forward_without_bn_update(model: Model, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Encoded:
    """Run the network without leaving a trace in its batch statistics.

    Args:
        images: f[B,3,H,W]. weights: parameters by name, in place of the network's own.
    """
    copies = {name: buffer.clone() for name, buffer in _statistics(model).items()}
    values = {**copies, **(weights or {})}
    encoded: Encoded = functional_call(model, values, (images,))
    return encoded


def swap_bn_stats(model: Model) -> dict[str, Tensor]:
    """Let copies of the network's buffers stand in their place, and return the buffers by name for `restore_bn_stats`.

    Between the two calls every forward, by whomever, leaves its trace in the copies.
    """
    kept = _statistics(model)
    restore_bn_stats(model, {name: buffer.clone() for name, buffer in kept.items()})
    return kept


def restore_bn_stats(model: Model, statistics: Mapping[str, Tensor]) -> None:
    """Let buffers stand in the network again that `swap_bn_stats` returned."""
    # The tensors themselves change places: a write into them would break the backward pass of earlier forwards.
    for name, buffer in statistics.items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)


@contextmanager
def normalised_apart(model: nn.Module, sizes: Sequence[int]) -> Iterator[None]:
    """Let every batch normalisation take the rows in runs of these lengths, one after the other.

    A forward of both sides' rows then gives what a forward of each side in turn gives, running statistics included, up
    to the rounding of sums over more rows (gradients of weights).
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = {norm: norm.__dict__["forward"] for norm in norms if "forward" in norm.__dict__}
    for norm in norms:
        # In the instance's dictionary, over the class's method; one that was put there before is kept and comes back.
        norm.forward = partial(_in_runs, norm.forward, list(sizes))  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward
        for norm, forward in kept.items():
            norm.forward = forward  # type: ignore[method-assign]


def _in_runs(forward: Callable[[Tensor], Tensor], sizes: list[int], rows: Tensor) -> Tensor:
    return torch.cat([forward(run) for run in torch.split(rows, sizes)])


def _statistics(model: Model) -> dict[str, Tensor]:
    """Return the network's buffers by name; what plugins keep under `parts` is none of its statistics."""
    return {name: buffer for name, buffer in model.named_buffers() if not name.startswith("parts.")}
