"""What Python adds to the compiled ops: fake kernels (shapes for torch.compile) and autograd, twice.

Imported once the library is loaded. The first derivative is an op of its own; the second is that of the plain-torch
reference, exact and seldom wanted.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from fercore.ops import reference

DENSE_ROWS = 1024
ROW_PADDING = 16
_MMD = torch.ops.fercore.mmd.default
_MMD_BACKWARD = torch.ops.fercore.mmd_backward.default
_MPC = torch.ops.fercore.mpc.default
_MPC_BACKWARD = torch.ops.fercore.mpc_backward.default
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", nullcontext)  # as torch.library's own formulas do


def _straight(op: Any, *inputs: Any) -> Any:
    """Call an op past its registered formula where no gradient is recorded; that saves some 10 us."""
    if torch.is_grad_enabled():
        return op(*inputs)
    with _below_autograd():
        return op(*inputs)


def memo_size(x: Tensor, y: Tensor, by_class: bool) -> int:
    """Return how many numbers the forward keeps for the backward; csrc/check.h and the two mmd files say the same."""
    groups, n, width = x.shape
    rows = n + y.shape[1]
    if groups == 0:
        return 0
    # Dense: all distances, each row padded to whole vectors, and zeros behind the last for vectors that reach beyond.
    if rows <= DENSE_ROWS:
        return groups * rows * (-(-rows // ROW_PADDING) * ROW_PADDING) + ROW_PADDING
    # Beyond, distances are computed again; without classes the CPU keeps the gradient for a unit output instead.
    return 0 if by_class or x.device.type == "cuda" else groups * rows * width


@torch.library.register_fake("fercore::mmd")  # type: ignore[untyped-decorator]
def _fake_mmd(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    x_labels, num_classes, keep = rest[4], rest[8], rest[11]
    groups = x.shape[0]
    classes = 0 if x_labels is None else num_classes
    return (
        x.new_empty(groups),
        x.new_empty(groups, classes, classes),
        x.new_empty(groups, classes, classes, dtype=torch.bool),
        x.new_empty(groups, 1 + classes * classes, dtype=torch.float64),
        x.new_empty(memo_size(x, y, x_labels is not None) if keep else 0),
    )


@torch.library.register_fake("fercore::mmd_backward")  # type: ignore[untyped-decorator]
def _fake_mmd_backward(grad_sample: Tensor, grad_value: Tensor, x: Tensor, y: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(y.shape)


@torch.library.register_fake("fercore::mpc")  # type: ignore[untyped-decorator]
def _fake_mpc(p: Tensor, q: Tensor, offdiag: bool) -> tuple[Tensor, Tensor]:
    return p.new_empty(p.shape[0]), p.new_empty(p.shape[0], p.shape[2], p.shape[2])


@torch.library.register_fake("fercore::mpc_backward")  # type: ignore[untyped-decorator]
def _fake_mpc_backward(grad: Tensor, p: Tensor, q: Tensor, joint: Tensor, offdiag: bool) -> tuple[Tensor, Tensor]:
    return p.new_empty(p.shape), q.new_empty(q.shape)


def _save_mmd(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, _, valid, bands, memo = output
    ctx.mark_non_differentiable(valid, bands, memo)
    ctx.save_for_backward(*inputs[:8], bands, memo)
    ctx.kept, ctx.options = inputs[13], inputs[10:13]


def _mmd_backward(
    ctx: Any, grad_sample: Tensor | None, grad_value: Tensor | None, *_: Tensor
) -> tuple[Tensor | None, ...]:
    *inputs, bands, memo = ctx.saved_tensors
    if not ctx.kept:
        raise RuntimeError("fercore::mmd was called with keep=False: call it with keep=True where a gradient is wanted")
    x, classes = inputs[0], 0 if inputs[6] is None else ctx.options[0]
    if grad_sample is None:
        grad_sample = x.new_zeros(x.shape[0])
    if grad_value is None:
        grad_value = x.new_zeros(x.shape[0], classes, classes)
    grads = _straight(_MMD_BACKWARD, grad_sample, grad_value, *inputs, bands, memo, *ctx.options)
    # One gradient for each of the op's fourteen arguments: x and y, and none for constants.
    return (*grads, *[None] * 12)


def _save_mmd_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:11])
    ctx.options = inputs[12:]


def _mmd_double_backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    grad_sample, grad_value, x, y, wx, wy, cx, cy, x_labels, y_labels, bands = ctx.saved_tensors
    classes = ctx.options[0]
    bandwidth = bands[:, 0].to(x.dtype)
    pairs = bands[:, 1:].to(x.dtype).reshape(-1, classes, classes) if x_labels is not None else None

    def first(grad_sample: Tensor, grad_value: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        values = reference.alignment(x, y, wx, wy, cx, cy, x_labels, y_labels, bandwidth, pairs, *ctx.options)
        return torch.autograd.grad(
            (values.sample, values.value), (x, y), (grad_sample, grad_value), create_graph=True, materialize_grads=True
        )

    return (*_differentiate(first, (grad_sample, grad_value, x, y), cotangents), *[None] * 11)


def _differentiate(function: Any, inputs: tuple[Tensor, ...], cotangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        # Fresh leaves: the reference is differentiated by itself, apart from the caller's graph.
        leaves = tuple(t.detach().requires_grad_() for t in inputs)
        outputs = function(*leaves)
        return torch.autograd.grad(outputs, leaves, cotangents, materialize_grads=True)


def _save_mpc(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    p, q, ctx.offdiag = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(p, q, output[1])


def _mpc_backward(ctx: Any, grad: Tensor | None, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    p, q, joint = ctx.saved_tensors
    return (*_straight(_MPC_BACKWARD, grad, p, q, joint, ctx.offdiag), None)


def _save_mpc_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.offdiag = inputs[4]


def _mpc_double_backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    grad, p, q = ctx.saved_tensors

    def first(grad: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(reference.mpc(p, q, ctx.offdiag), (p, q), grad, create_graph=True)

    return (*_differentiate(first, (grad, p, q), cotangents), None, None)


class _Mmd(torch.autograd.Function):
    """The eager path of fercore::mmd: the same formulas without the cost of the registered ones (some 50 us a call)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """Run the op and save what its registered form saves."""
        output = _straight(_MMD, *inputs)
        _save_mmd(ctx, inputs, output)
        # Else autograd makes zeros for every output, as large as the memo.
        ctx.set_materialize_grads(False)
        return tuple(output)

    backward = staticmethod(_mmd_backward)


class _Mpc(torch.autograd.Function):
    """The eager path of fercore::mpc, likewise."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, offdiag: bool) -> Tensor:
        """Run the op and save what its registered form saves; the value alone comes out."""
        value, joint = _straight(_MPC, p, q, offdiag)
        ctx.save_for_backward(p, q, joint)
        ctx.offdiag = offdiag
        return cast("Tensor", value)

    backward = staticmethod(_mpc_backward)


def mmd(*inputs: Any) -> tuple[Tensor, ...]:
    """Call fercore::mmd by the cheapest way that the caller can differentiate."""
    # torch.compile traces the registered formulas; without `keep` there is nothing to differentiate.
    if torch.compiler.is_compiling() or not inputs[-1]:
        return tuple(_MMD(*inputs))
    return cast("tuple[Tensor, ...]", _Mmd.apply(*inputs))


def mpc(p: Tensor, q: Tensor, offdiag: bool) -> Tensor:
    """Call fercore::mpc by the cheapest way that the caller can differentiate."""
    differentiable = torch.is_grad_enabled() and (p.requires_grad or q.requires_grad)
    if torch.compiler.is_compiling() or not differentiable:
        return cast("Tensor", _MPC(p, q, offdiag)[0])
    return cast("Tensor", _Mpc.apply(p, q, offdiag))


torch.library.register_autograd("fercore::mmd", _mmd_backward, setup_context=_save_mmd)
torch.library.register_autograd("fercore::mmd_backward", _mmd_double_backward, setup_context=_save_mmd_backward)
torch.library.register_autograd("fercore::mpc", _mpc_backward, setup_context=_save_mpc)
torch.library.register_autograd("fercore::mpc_backward", _mpc_double_backward, setup_context=_save_mpc_backward)
