"""A network that sees some rows of a batch, as if it saw all: batch statistics, dropout and sums over its samples.

Several processes share a batch, or one takes it in pieces. Inside `seeing` batch normalisation goes by the statistics
of all processes' rows, and random numbers are drawn for the whole batch, of which the rows' own are taken. What a
network draws by itself, past dropout, stochastic depth and `drawn_for_rows`, it draws for the rows it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from fercore.models.model import Model
from fercore.models.statistics import restore_bn_stats, swap_bn_stats
from fercore.processes import ALONE_HERE, Processes
from fercore.records.step import Encoded


@dataclass(frozen=True)
class Rows:
    """Which rows of a batch a network sees.

    Attributes:
        places: int64[b] of the rows in the batch. total: rows of the batch. processes: that have the others.
        statistics: whether batch normalisation goes by the rows of all processes.
        piece: number of these rows' piece, of those that this process takes one after another.
        forward: what tells a forward of a piece from any other; None = rows are in no pieces.
    """

    places: Tensor
    total: int
    processes: Processes = ALONE_HERE
    statistics: bool = True
    piece: int = 0
    forward: object = None


_MULTIPLY = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""What drops by a factor for each element or channel."""
_SEEN: ContextVar[Rows | None] = ContextVar("rows", default=None)
_AGAIN: ContextVar[bool] = ContextVar("again", default=False)


@contextmanager
def seeing(model: nn.Module, rows: Rows) -> Iterator[None]:
    """Let a network know which rows of a batch it is given."""
    kept: list[tuple[nn.Module, Any]] = []

    def put(module: nn.Module, rule: Callable[..., Tensor]) -> None:
        kept.append((module, module.__dict__.get("forward")))
        module.forward = partial(rule, module, module.forward, rows)  # type: ignore[method-assign]

    for module in model.modules():
        if isinstance(module, _BatchNorm) and rows.statistics and rows.processes.several:
            put(module, _normalise)
        elif drops(module):
            put(module, _drop)
    token = _SEEN.set(rows)
    try:
        yield
    finally:
        _SEEN.reset(token)
        for module, forward in kept:
            del module.forward
            if forward is not None:
                module.forward = forward


def drawn_for_rows(x: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Return random numbers for rows x f[b,...]: those that these rows have among the ones drawn for the whole batch.

    Args:
        x: what they are for. draw: gives as many random numbers as a tensor has elements, of its shape and type.
    """
    rows = _SEEN.get()
    if rows is None or not len(rows.places) or len(x) % len(rows.places):
        return draw(x)
    # A sample may have several rows, one after another (patches, windows).
    each = len(x) // len(rows.places)
    whole = draw(x.new_ones(1).expand(rows.total * each, *x.shape[1:]))
    if each == 1:
        return whole[rows.places]
    return whole.view(rows.total, each, *x.shape[1:])[rows.places].flatten(0, 1)


def summed_over_rows(value: Tensor) -> Tensor:
    """Return a sum over samples f[...] of all processes' rows of the batch, with its gradient."""
    rows = _SEEN.get()
    if rows is None or not rows.processes.several:
        return value
    summed: Tensor = _Sum.apply(value, rows.processes)
    return summed


def piece_seen() -> int | None:
    """Return the number of the piece that a network sees; None where it is worked out again, for its gradient."""
    rows = _SEEN.get()
    return None if _AGAIN.get() else 0 if rows is None else rows.piece


def this_forward() -> object:
    """Return what a part of a graph belongs to that a network keeps from one call to the next; equal = the same.

    None where a step has one graph. In pieces each forward has its own, and so has each that is run again.
    """
    rows = _SEEN.get()
    return None if rows is None or rows.forward is None else (rows.forward, _AGAIN.get())


def in_pieces(model: Model, run: Callable[[Tensor], Encoded], rows: Rows, pieces: int) -> Encoded:
    """Encode rows in pieces, of which none but the one at work keeps what its gradient needs: it is worked out again.

    Random numbers are those of the rows in one piece. Each piece has batch statistics of its own.

    Args:
        model: the network, whose batch statistics move once. run: int64[b] places among these rows -> what they are
            encoded as. rows: all of them. pieces: how many.
    """
    order = [torch.arange(len(rows.places))[number::pieces] for number in range(pieces)]
    # Generators of devices are the checkpoint's to keep; where pieces begin, the host's decides.
    start, parts, forwards = torch.get_rng_state(), [], [object() for _ in order]

    def piece(number: int) -> Encoded:
        mine = replace(rows, places=rows.places[order[number]], piece=number, forward=forwards[number])
        with seeing(model, mine):
            return run(order[number])

    for number in range(pieces):
        torch.set_rng_state(start)
        # Without stopping early, which ends the second run by an exception in the middle of a hook.
        with set_checkpoint_early_stop(False):
            both = partial(_first_and_again, model)
            parts.append(checkpoint(piece, number, use_reentrant=False, context_fn=both))
    back = torch.argsort(torch.cat(order))
    return Encoded(_joined([part.features for part in parts], back), _joined([part.logits for part in parts], back))


def _joined(parts: Sequence[Mapping[str, Tensor]], order: Tensor) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts])[order.to(parts[0][name].device)] for name in parts[0]}


def _first_and_again(model: Model) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _again(model)


@contextmanager
def _again(model: Model) -> Iterator[None]:
    """Let a forward that is run again leave no trace."""
    kept, token = swap_bn_stats(model), _AGAIN.set(True)
    try:
        yield
    finally:
        _AGAIN.reset(token)
        restore_bn_stats(model, kept)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.add(value.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Every process works out the same loss, and gradients of weights are averaged over them.
        return gradient * ctx.processes.world, None


def drops(module: nn.Module) -> bool:
    """Say whether a module drops at random in training."""
    if _is_drop_path(module):
        return bool(getattr(module, "drop_prob", 0))
    return isinstance(module, _MULTIPLY) and module.p > 0


def _is_drop_path(module: nn.Module) -> bool:
    # timm's, by name: whoever needs no network of timm's does not wait for its import.
    return type(module).__name__ == "DropPath" and type(module).__module__.startswith("timm.")


def _drop(module: nn.Module, forward: Callable[[Tensor], Tensor], rows: Rows, x: Tensor) -> Tensor:
    if not module.training:
        return forward(x)
    if _is_drop_path(module):
        # One number a row, whatever the shape behind it.
        return x * drawn_for_rows(x.new_ones(len(x), *[1] * (x.ndim - 1)), lambda ones: forward(ones.contiguous()))
    form = torch.channels_last if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else None
    lay_out = partial(Tensor.contiguous, memory_format=form or torch.contiguous_format)
    return x * drawn_for_rows(x.detach(), lambda ones: forward(lay_out(ones)))


def _normalise(norm: _BatchNorm, forward: Callable[[Tensor], Tensor], rows: Rows, x: Tensor) -> Tensor:
    if not (norm.training or norm.running_mean is None):
        return forward(x)
    y: Tensor
    y, mean, variance, n = _BatchStatistics.apply(x, norm.weight, norm.bias, norm.eps, rows.processes)
    if norm.training and norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            count = norm.num_batches_tracked
            if count is not None:
                count.add_(1)
            share = 1 / float(count) if norm.momentum is None and count is not None else norm.momentum or 0.0
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
            norm.running_var.lerp_((variance * (n / max(1, n - 1))).to(norm.running_var.dtype), share)
    for name in ("drop", "act"):  # timm's BatchNormAct2d
        after = getattr(norm, name, None)
        y = after(y) if isinstance(after, nn.Module) else y
    return y


class _BatchStatistics(torch.autograd.Function):
    """Batch normalisation of x f[b,C,...] by mean and variance over the rows of all processes.

    Returns y, and mean f[C], variance f[C] (divided by n) and the number n of values of a channel, without gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        axes = [0, *range(2, x.ndim)]
        own = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        here = own.numel() // max(1, own.shape[1])
        mean, squares = own.new_zeros(own.shape[1]), own.new_zeros(own.shape[1])
        if here:
            variance, mean = torch.var_mean(own, axes, correction=0)
            squares = variance * here
        parts = processes.stack(torch.cat([mean, squares, mean.new_full((1,), here)]))
        means, deviations = parts[:, :-1].chunk(2, dim=1)
        counts = parts[:, -1:]
        n = int(counts.sum())
        # Sums of squares about each process's own mean, moved to the common one (Chan et al. 1979).
        mean = (means * counts).sum(0) / n
        variance = (deviations + counts * (means - mean).square()).sum(0) / n
        inverse = torch.rsqrt(variance + eps)
        y = F.batch_norm(own, mean, variance, _like(weight, own), _like(bias, own), training=False, eps=eps)
        ctx.save_for_backward(own, weight, mean, inverse)
        ctx.processes, ctx.n, ctx.axes, ctx.type = processes, n, axes, x.dtype
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance, n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.ndim - 2))
        gradient = gradient.to(x.dtype)
        scaled = (x - mean.view(shape)) * inverse.view(shape)
        by_bias, by_weight = gradient.sum(ctx.axes), (gradient * scaled).sum(ctx.axes)
        both = ctx.processes.add(torch.cat([by_bias, by_weight])) / ctx.n
        first, second = (each.view(shape) for each in both.chunk(2))
        factor = inverse if weight is None else inverse * weight.to(x.dtype)
        to_x = (gradient - first - scaled * second) * factor.view(shape)
        # Of the rows here alone: gradients of weights are averaged over the processes later.
        to_weight, to_bias = (None, None) if weight is None else (by_weight.to(weight.dtype), by_bias.to(weight.dtype))
        return to_x.to(ctx.type), to_weight, to_bias, None, None


def _like(values: Tensor | None, x: Tensor) -> Tensor | None:
    return None if values is None else values.to(x.dtype)
