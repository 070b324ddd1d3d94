"""Inputs that the op tests share, and how far results may be apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch

VALUE = {torch.float64: 1e-12, torch.float32: 1e-5}
GRADIENT = {torch.float64: 1e-12, torch.float32: 1e-4}


@dataclass(frozen=True)
class Case:
    """Groups G against Gy shared targets, N and M rows of width D, K classes, and how the features are spoilt."""

    groups: int
    targets: int
    n: int
    m: int
    width: int
    classes: int
    offset: float = 0.0
    scale: float = 1.0
    duplicates: bool = False
    labels_by_group: bool = False
    uniform: bool = False
    multiplier: float = 2.0
    kernels: int = 5
    absent: int = 0  # classes that nobody has

    def tensors(self, dtype, device="cpu", seed=0):
        """Return x, y and the arguments after them of `reference.alignment`."""
        generator = torch.Generator().manual_seed(seed)

        def rand(*shape):
            return torch.rand(*shape, generator=generator, dtype=torch.float64)

        def labels(*shape):
            return torch.randint(-1, max(self.classes - self.absent, 0), shape, generator=generator)

        x = torch.randn(self.groups, self.n, self.width, generator=generator, dtype=torch.float64)
        y = torch.randn(self.targets, self.m, self.width, generator=generator, dtype=torch.float64) + 0.3
        if self.duplicates:
            x[:, self.n // 2 :] = x[:, : self.n - self.n // 2].clone()
            y[:, ::3] = x[: self.targets, :1]
        x, y = (t * self.scale + self.offset for t in (x, y))
        wx, wy = rand(self.groups, self.n) + 0.1, rand(self.targets, self.m) + 0.1
        wx, wy = wx / wx.sum(1, keepdim=True), wy / wy.sum(1, keepdim=True)
        cx, cy = (None, None) if self.uniform else (rand(self.groups, self.n), rand(self.targets, self.m))
        xl, yl = labels(self.groups, self.n), labels(self.groups if self.labels_by_group else self.targets, self.m)
        floats = [None if t is None else t.to(device, dtype) for t in (wx, wy, cx, cy)]
        options = (None, None, self.classes, self.kernels, self.multiplier)
        return x.to(device, dtype), y.to(device, dtype), (*floats, xl.to(device), yl.to(device), *options)


CASES = {
    "plain": Case(4, 2, 12, 9, 6, 4),
    "one_group": Case(1, 1, 33, 47, 100, 7),
    "labels_by_group": Case(6, 2, 20, 16, 11, 3, labels_by_group=True),
    "offset": Case(4, 2, 32, 32, 256, 7, offset=1e3),
    "small_scale": Case(4, 2, 32, 32, 64, 7, scale=1e-3),
    "large_scale": Case(4, 2, 32, 32, 64, 7, scale=1e3),
    "duplicates": Case(2, 2, 24, 18, 20, 3, duplicates=True),
    "single_rows": Case(3, 1, 1, 1, 5, 2),
    "one_against_many": Case(2, 1, 1, 17, 5, 2),
    "no_source": Case(2, 2, 0, 5, 5, 2),
    "no_target": Case(2, 2, 5, 0, 5, 2),
    "nothing": Case(0, 0, 5, 4, 5, 2),
    "no_rows": Case(2, 1, 0, 0, 3, 2),
    "empty_classes": Case(3, 3, 14, 10, 8, 7, absent=4),
    "all_unknown": Case(2, 1, 14, 10, 8, 3, absent=3),
    "uniform": Case(3, 1, 21, 19, 8, 3, uniform=True),
    "multiplier": Case(2, 2, 21, 19, 8, 3, multiplier=1.7, kernels=4),
    "one_kernel": Case(2, 2, 21, 19, 8, 3, kernels=1),
    "wide": Case(1, 1, 9, 7, 2500, 2),
    "streamed": Case(2, 1, 600, 500, 9, 3),
}


def distance(actual, expected):
    """Return the largest deviation relative to the largest expected magnitude."""
    if expected.numel() == 0:
        return 0.0
    actual, expected = (t.detach().cpu().double() for t in (actual, expected))
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-300))


def widen(arguments):
    """Return the arguments with their float tensors in float64."""
    return [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]


def differentiate(function, x, y, arguments, seed=1):
    """Return sample, value, valid and the gradients of x and y for random output gradients."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    sample, value, valid = function(x, y, *arguments)
    generator = torch.Generator().manual_seed(seed)
    outputs = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device, t.dtype) for t in (sample, value)
    ]
    grads = torch.autograd.grad((sample, value), (x, y), outputs, materialize_grads=True)
    return sample.detach(), value.detach(), valid, *grads
