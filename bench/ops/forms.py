"""The forms that the ops are measured against, each written for the benchmark.

`released` follows the formulation of the released LA-CMFER code (loss/mmd_1.py): an [n,n,D] tensor of differences, one
loss a class pair with a loop of its own, `.item()` bandwidths. `floor` is the two matrix products that the maths
cannot do without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fercore.ops import dispatch, reference


@dataclass(frozen=True)
class Step:
    """One call's inputs: groups x [G,N,D] against y [Gy,N,D], with weights, labels and output gradients."""

    x: torch.Tensor
    y: torch.Tensor
    weights_x: torch.Tensor
    weights_y: torch.Tensor
    labels_x: torch.Tensor
    labels_y: torch.Tensor
    classes: int
    grads: tuple[torch.Tensor, torch.Tensor]
    floor_rows: torch.Tensor
    floor_factors: torch.Tensor

    def arguments(self):
        wx, wy = self.weights_x, self.weights_y
        if self.classes == 0:
            return (wx, wy, *[None] * 6, 0, 5, 2.0)
        return (wx, wy, wx, wy, self.labels_x, self.labels_y, None, None, self.classes, 5, 2.0)


def step(rows, width=1024, groups=10, targets=10, classes=7, device="cpu", floor=True):
    """Make a step; targets < groups shares each target between groups (sources of a branch)."""
    torch.manual_seed(0)
    x = torch.randn(groups, rows, width, device=device).requires_grad_()
    y = (torch.randn(targets, rows, width, device=device) + 0.1).requires_grad_()
    wx, wy = (torch.rand(t.shape[:2], device=device) for t in (x, y))
    labels = [torch.randint(0, max(classes, 1), t.shape[:2], device=device) for t in (x, y)]
    grads = torch.ones(groups, device=device), torch.randn(groups, classes, classes, device=device)
    both = (groups, 2 * rows, width if floor else 0), (groups, 2 * rows, 2 * rows if floor else 0)
    return Step(
        x, y, wx / wx.sum(1, keepdim=True), wy / wy.sum(1, keepdim=True), *labels, classes, grads,
        *(torch.randn(shape, device=device) for shape in both),
    )  # fmt: skip


def floor(s: Step):
    for rows, factors in zip(s.floor_rows, s.floor_factors, strict=True):
        rows @ rows.T
        factors @ rows


def _both_ways(function: Callable, s: Step):
    sample, value, _ = function(s.x, s.y, *s.arguments())
    torch.autograd.grad((sample, value), (s.x, s.y), s.grads, materialize_grads=True)


def fused(s: Step):
    _both_ways(dispatch.alignment, s)


def fused_forward(s: Step):
    with torch.no_grad():
        dispatch.alignment(s.x, s.y, *s.arguments())


def plain_torch(s: Step):
    _both_ways(reference.alignment, s)


def compiled_torch() -> Callable[[Step], None]:
    function = torch.compile(lambda *a: tuple(reference.alignment(*a)))
    return lambda s: _both_ways(function, s)


def released(s: Step):
    for g in range(s.x.shape[0]):
        x, y = s.x[g], s.y[g % s.y.shape[0]]
        weight = torch.cat([s.weights_x[g], -s.weights_y[g % s.y.shape[0]]])
        loss = (weight[:, None] * weight[None] * _released_kernel(x, y)).sum() * s.grads[0][g]
        if s.classes:
            loss = loss + _released_classes(x, y, s.labels_x[g], s.labels_y[g % s.y.shape[0]], s.classes)
        torch.autograd.grad(loss, (s.x, s.y))


def _released_kernel(x, y):
    total = torch.cat([x, y])
    n = len(total)
    left = total.unsqueeze(0).expand(n, n, -1)
    right = total.unsqueeze(1).expand(n, n, -1)
    distance = ((left - right) ** 2).sum(2)
    bandwidth = (distance.detach().sum() / max(n * n - n, 1)).item() / 4
    return sum(torch.exp(-distance / (bandwidth * 2**q)) for q in range(5))


def _released_classes(x, y, labels_x, labels_y, classes):
    losses = []
    for k in range(classes):
        for label in range(classes):
            a, b = x[labels_x == k], y[labels_y == label]
            if len(a) == 0 or len(b) == 0:
                continue
            kernel, n = _released_kernel(a, b), len(a)
            losses.append(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())
    return torch.stack(losses).mean()


def keops(s: Step):
    """The sample level with KeOps (an optional dependency), one group at a time."""
    from pykeops.torch import LazyTensor

    for g in range(s.x.shape[0]):
        rows = torch.cat([s.x[g], s.y[g % s.y.shape[0]]])
        weight = torch.cat([s.weights_x[g], -s.weights_y[g % s.y.shape[0]]])
        centred = (rows - rows.mean(0)).detach()
        n = len(rows)
        bandwidth = 2 * n * (centred**2).sum() / (n * n - n)
        left, right = LazyTensor(rows[:, None]), LazyTensor(rows[None])
        distance = ((left - right) ** 2).sum(-1)
        kernel = sum((-distance / (bandwidth * 2.0 ** (q - 2))).exp() for q in range(5))
        (weight @ (kernel @ weight[:, None])[:, 0]).backward()
        s.x.grad = s.y.grad = None


def mpc_views(groups=10, batch=128, classes=7, device="cpu"):
    torch.manual_seed(0)
    return [torch.randn(groups, batch, classes, device=device).softmax(-1).requires_grad_() for _ in range(2)]


def mpc_with(function: Callable):
    def run(views):
        value = function(*views, False)
        torch.autograd.grad(value, views, torch.ones_like(value))

    return run


def mpc_released(p, q, offdiag=False):
    """One group after the other, as the released code's loss is written."""
    del offdiag
    total = 0
    for g in range(p.shape[0]):
        joint = p[g].T @ q[g]
        eye = torch.eye(joint.shape[0], device=p.device)
        first = joint / joint.sum(1, keepdim=True)
        second = joint.T / joint.T.sum(1, keepdim=True)
        total = total + ((first - eye).abs().sum() + (second - eye).abs().sum()) / (2 * joint.shape[0])
    return total
