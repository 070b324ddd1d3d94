"""Normalisation layers of a network that adapts: which it has, their statistics, and other ways to normalise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fercore.errors import UserInputError
from fercore.models.model import Model

NormKind: TypeAlias = Literal["batch_norm", "any_norm"]
"""Layers whose scale and shift a method trains: batch normalisation alone, or layer and group normalisation too."""

NormRule: TypeAlias = Callable[[_BatchNorm, Tensor], Tensor]
"""What stands in for a batch normalisation: (layer, x f[B,C,...]) -> normalised, scaled and shifted."""


class Moments(NamedTuple):
    """Mean f[C] and variance f[C] (divided by n) of each channel, and the number n of values behind them."""

    mean: Tensor
    variance: Tensor
    n: int

    @property
    def unbiased(self) -> Tensor:
        """The variance divided by n - 1, as running statistics keep it."""
        return self.variance * (self.n / max(1, self.n - 1))


def moments(x: Tensor) -> Moments:
    """Return the moments of a batch f[B,C,...] by channel."""
    axes = [0, *range(2, x.ndim)]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return Moments(mean, variance, x.numel() // x.shape[1])


def of_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return values f[C] in a shape that goes with x f[B,C,...]."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def scaled(norm: _BatchNorm, x: Tensor) -> Tensor:
    """Return normalised values f[B,C,...] with the layer's scale and shift."""
    if not norm.affine:
        return x
    return x * of_channels(norm.weight, x) + of_channels(norm.bias, x)


def normalised(norm: _BatchNorm, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return f[B,C,...] normalised with moments f[C], scaled and shifted."""
    return scaled(norm, (x - of_channels(mean, x)) * of_channels(torch.rsqrt(variance + norm.eps), x))


def running(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the running mean and variance f[C].

    Raises:
        UserInputError: if the layer keeps none.
    """
    if norm.running_mean is None or norm.running_var is None:
        fix = "take a network that keeps running statistics"
        raise UserInputError("a batch normalisation without running statistics", where="model", fix=fix)
    return norm.running_mean, norm.running_var


@torch.no_grad()
def move_running(norm: _BatchNorm, mean: Tensor, variance: Tensor, momentum: float) -> None:
    """Move the running statistics by a share towards others f[C], with new tensors: a write would break backward."""
    old_mean, old_variance = running(norm)
    norm.running_mean = torch.lerp(old_mean, mean.detach().to(old_mean.dtype), momentum)
    norm.running_var = torch.lerp(old_variance, variance.detach().to(old_variance.dtype), momentum)


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch normalisations of a network, but for those in parts that plugins keep."""
    return [module for _, module in _norms(model, (_BatchNorm,)) if isinstance(module, _BatchNorm)]


@contextmanager
def normalised_by(model: nn.Module, rule: NormRule) -> Iterator[None]:
    """Let a rule stand in for every batch normalisation; what a layer does after it (timm's activations) stays."""
    norms = batch_norms(model)
    for norm in norms:
        norm.forward = partial(_by_rule, rule, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _by_rule(rule: NormRule, norm: _BatchNorm, x: Tensor) -> Tensor:
    x = rule(norm, x)
    for name in ("drop", "act"):  # timm's BatchNormAct2d
        after = getattr(norm, name, None)
        x = after(x) if isinstance(after, nn.Module) else x
    return x


def batch_statistics(momentum: float) -> NormRule:
    """Return the rule of a layer in training mode: the batch's own statistics; running ones move by `momentum`.

    Where a channel has a single value, which has no variance, running statistics stand in.
    """

    def rule(norm: _BatchNorm, x: Tensor) -> Tensor:
        if x.numel() <= x.shape[1]:
            return normalised(norm, x, *running(norm))
        kept = (norm.running_mean, norm.running_var) if momentum else (None, None)
        return F.batch_norm(x, *kept, norm.weight, norm.bias, training=True, momentum=momentum, eps=norm.eps)

    return rule


def mixed_statistics(share: float, momentum: float) -> NormRule:
    """Return the rule that mixes running and batch statistics: (1 - share) running + share batch, mean and variance.

    Schneider et al. (NeurIPS 2020) with share = n / (N0 + n); alpha-BN (You et al. 2021) with a constant one. Running
    statistics then move by `momentum`.
    """

    def rule(norm: _BatchNorm, x: Tensor) -> Tensor:
        mean, variance = running(norm)
        if share and x.numel() > x.shape[1]:
            batch = moments(x)
            if momentum:
                move_running(norm, batch.mean, batch.unbiased, momentum)
            mean, variance = torch.lerp(mean, batch.mean, share), torch.lerp(variance, batch.variance, share)
        return normalised(norm, x, mean, variance)

    return rule


def norm_parameters(model: Model, kind: NormKind, *, frozen: Iterable[str] = (), who: str) -> tuple[str, ...]:
    """Return the names of the scales and shifts that a method trains.

    Args:
        kind: which layers. frozen: names of modules under the backbone whose layers stay as they are. who: the method.

    Raises:
        UserInputError: if the network has no such layer, or none with scale and shift.
    """
    kinds = (_BatchNorm,) if kind == "batch_norm" else (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
    kept = [(name, norm) for name, norm in _norms(model, kinds) if not _inside(name, frozen)]
    names = [f"{name}.{own}" for name, norm in kept for own, _ in norm.named_parameters(recurse=False)]
    if not names:
        network = type(model.backbone).__name__
        some = ("batch normalisation", "batch_norm") if kind == "batch_norm" else ("normalisation layer", kind)
        what = f"{who} trains scale and shift of normalisation layers, and the network {network} has no {some[0]}"
        fix = f"--set {who}.affine_of=any_norm" if _norms(model, (nn.LayerNorm, nn.GroupNorm)) else "t3a, lame or memo"
        raise UserInputError(f"{what} to train", where="model.backbone", fix=fix)
    return tuple(names)


def refuse_without_batch_norm(model: Model, who: str) -> None:
    """Make sure that a method has batch statistics to work with.

    Raises:
        UserInputError: if the network has no batch normalisation.
    """
    if not batch_norms(model):
        what = f"{who} adapts batch statistics, and the network {type(model.backbone).__name__} has none"
        raise UserInputError(what, where="model.backbone", fix="tent, sar, t3a, lame or memo do without")


def _norms(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, nn.Module]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, kinds) and not n.startswith("parts.")]


def _inside(name: str, frozen: Iterable[str]) -> bool:
    """Say whether a module is one of these modules of the backbone, or inside one."""
    return any(f"{name}.".startswith(f"backbone.{module}.") for module in frozen)
