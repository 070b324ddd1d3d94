"""Optimisers and schedules by name. Packages add to both: `fercore.optimisers`, `fercore.schedules`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from fercore.registry import Registry

if TYPE_CHECKING:
    import torch

    from fercore.records.plan import OptimiserSpec

Groups: TypeAlias = list[dict[str, Any]]
"""Parameter groups as torch's optimisers take them: "params", "lr", "weight_decay"."""


def _sgd(groups: Groups, spec: OptimiserSpec, fused: bool) -> torch.optim.Optimizer:
    import torch

    # torch refuses Nesterov without momentum.
    nesterov = spec.nesterov and spec.momentum > 0
    return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum, nesterov=nesterov, fused=fused or None)


def _sgdw(groups: Groups, spec: OptimiserSpec, fused: bool) -> torch.optim.Optimizer:
    from timm.optim.sgdw import SGDW

    optimiser: torch.optim.Optimizer = SGDW(
        groups, lr=spec.lr, momentum=spec.momentum, nesterov=spec.nesterov and spec.momentum > 0
    )
    return optimiser


def _adam(groups: Groups, spec: OptimiserSpec, fused: bool) -> torch.optim.Optimizer:
    import torch

    return torch.optim.Adam(groups, lr=spec.lr, betas=spec.betas, fused=fused or None)


def _adamw(groups: Groups, spec: OptimiserSpec, fused: bool) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=fused or None)


OPTIMISERS: Registry[Callable[[Groups, OptimiserSpec, bool], torch.optim.Optimizer]] = Registry(
    "fercore.optimisers", {"sgd": _sgd, "sgdw": _sgdw, "adam": _adam, "adamw": _adamw}
)
"""Name -> function from parameter groups, spec, and whether to update all weights in one pass where torch can."""


def _inverse_decay(spec: OptimiserSpec, share: float) -> float:
    # DANN's annealing (Ganin et al. 2016): lr / (1 + gamma p)^power.
    return float((1 + spec.gamma * share) ** -spec.power)


def _cosine(spec: OptimiserSpec, share: float) -> float:
    return spec.floor + (1 - spec.floor) * 0.5 * (1 + math.cos(math.pi * share))


def _linear(spec: OptimiserSpec, share: float) -> float:
    return spec.floor + (1 - spec.floor) * (1 - share)


def _step(spec: OptimiserSpec, share: float) -> float:
    return float(spec.drop ** sum(share >= milestone for milestone in spec.milestones))


SCHEDULES: Registry[Callable[[OptimiserSpec, float], float]] = Registry(
    "fercore.schedules",
    {
        "constant": lambda spec, share: 1.0,
        "inverse_decay": _inverse_decay,
        "cosine": _cosine,
        "linear": _linear,
        "step": _step,
    },
)
"""Name -> function from spec and the share of the schedule that is done, in [0,1], to a factor on the rate."""
