"""Phases made runnable: which parameters they train, with which optimiser, on which schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fercore.documents import Shape, misfit
from fercore.hooks.checks import HookError
from fercore.optimisers import OPTIMISERS, SCHEDULES
from fercore.records.plan import OptimiserSpec, ParamGroup, Phase, Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricOptimizer


class _Schedule(Shape):
    last_epoch: int = Field(ge=0)
    step_count: int = Field(alias="_step_count", ge=0)


class PhaseRunner:
    """A phase with its optimiser and schedule.

    Args:
        fabric: device and precision.
        phase: what to train, and how.
        stage: the stage it belongs to; parameters no phase of the stage trains stay frozen in it.
        model: the network, already on its device.
        fused: update all weights in one pass, where torch has that for the optimiser; it rounds differently.
    """

    def __init__(self, fabric: Fabric, phase: Phase, stage: Stage, model: nn.Module, *, fused: bool = False) -> None:
        self.name = phase.name
        self._clip = phase.clip_grad_norm
        self._fresh = phase.optimiser.reset_optimizer_state
        self._model = model
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = [(group, assign(trainable, phase.groups, group)) for group in phase.groups]
        groups = [(group, members) for group, members in groups if members]
        if not groups:
            raise HookError(f"phase {phase.name!r} of stage {stage.name!r} trains no parameter")
        self._mine = {id(p) for _, members in groups for p in members}
        self._all = list(trainable.values())
        self._partial = len(self._mine) < len(self._all)
        spec = phase.optimiser
        self._decays = [] if spec.decay_by_rate else [(members, _decay(spec, group)) for group, members in groups]
        optimiser = OPTIMISERS[spec.name]([_settings(spec, group, members) for group, members in groups], spec, fused)
        self._plain = optimiser
        self.schedule = LambdaLR(optimiser, rate_factor(spec, own_steps(stage)))
        self.optimiser = cast("_FabricOptimizer", fabric.setup_optimizers(optimiser))

    def activate(self) -> None:
        """Let gradients flow to this phase's parameters only."""
        if self._partial:
            for parameter in self._all:
                parameter.requires_grad_(id(parameter) in self._mine)

    def begin_epoch(self) -> None:
        """Forget momentum and moments, where the phase asks for it."""
        if self._fresh:
            self._plain.state.clear()

    def release(self) -> None:
        """Make every trainable parameter trainable again, as before the stage."""
        for parameter in self._all:
            parameter.requires_grad_(True)

    def optimizer_step(self, fabric: Fabric, total: Tensor) -> bool:
        """Take one optimiser step down the gradient of `total`, and one step of the schedule.

        Returns:
            whether there was a gradient. Without one no weight changes, by momentum and decay either, and the schedule
            goes on.
        """
        if total.requires_grad:
            self._descend(fabric, total)
        else:
            self._plain._opt_called = True  # type: ignore[attr-defined]  # else torch warns that no step came first
        self.schedule.step()
        return total.requires_grad

    def _descend(self, fabric: Fabric, total: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        fabric.backward(total)
        if self._clip is not None:
            fabric.clip_gradients(self._model, self.optimiser, max_norm=self._clip, error_if_nonfinite=False)
        with torch.no_grad():
            for members, decay in self._decays:
                torch._foreach_mul_([*members], 1 - decay)
        self.optimiser.step()

    def learning_rates(self) -> list[float]:
        """Return the current learning rate of each parameter group."""
        return [float(group["lr"]) for group in self.optimiser.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimiser and schedule."""
        schedule = {"last_epoch": self.schedule.last_epoch, "_step_count": self.schedule._step_count}
        return {"optimiser": self._plain.state_dict(), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            Exception: of any kind, if it is the state of another optimiser.
        """
        own = [_fixed(group) for group in self._plain.param_groups]
        self._plain.load_state_dict(state["optimiser"])
        if [_fixed(group) for group in self._plain.param_groups] != own:
            raise ValueError(f"the optimiser of phase {self.name!r} has other settings")
        for parameter, kept in self._plain.state.items():
            self._check_kept(parameter, kept)
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # A fused step walks weights and moments in the order of memory: both must lie there alike.
                    kept[name] = torch.empty_like(parameter).copy_(value)
        if fault := misfit(state["schedule"], _Schedule):
            raise ValueError(f"the schedule of phase {self.name!r}: {fault}")
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.schedule._step_count = state["schedule"]["_step_count"]

    def _check_kept(self, parameter: Tensor, kept: dict[str, Any]) -> None:
        """Make sure that what an optimiser keeps of a parameter is what a step of it reads."""
        shapes = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter.shape) | {"step": torch.Size()}
        if "betas" not in self._plain.defaults:
            shapes = {} if kept == {"momentum_buffer": None} else {"momentum_buffer": parameter.shape}
        found = {name: value.shape for name, value in kept.items() if value is not None}
        positive = (kept[name] for name in ("step", "exp_avg_sq") if name in kept)
        if found != shapes or not all(bool((value >= 0).all()) for value in positive):
            raise ValueError(f"the optimiser of phase {self.name!r} was another one, or of other parameters")


def _fixed(group: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a group that no schedule changes."""
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def assign(parameters: dict[str, nn.Parameter], groups: Sequence[ParamGroup], group: ParamGroup) -> list[nn.Parameter]:
    """Return the parameters whose longest matching prefix among all groups belongs to `group`."""

    def longest(name: str, of: ParamGroup) -> int:
        return max((len(prefix) for prefix in of.prefixes if name.startswith(prefix)), default=-1)

    def winner(name: str) -> ParamGroup | None:
        best = max(groups, key=lambda candidate: longest(name, candidate))
        return best if longest(name, best) >= 0 else None

    return [parameter for name, parameter in parameters.items() if winner(name) is group]


def _settings(spec: OptimiserSpec, group: ParamGroup, members: list[nn.Parameter]) -> dict[str, Any]:
    decay = _decay(spec, group) if spec.decay_by_rate else 0.0
    return {"params": members, "lr": spec.lr * group.lr_multiplier, "weight_decay": decay}


def _decay(spec: OptimiserSpec, group: ParamGroup) -> float:
    return spec.weight_decay if group.weight_decay is None else group.weight_decay


def own_steps(stage: Stage) -> int:
    """Return how often a phase of the stage is run: on every batch, or on the batches of its turns."""
    return stage.steps if stage.alternating == "step" else math.ceil(stage.steps / len(stage.phases))


def rate_factor(spec: OptimiserSpec, phase_steps: int) -> Callable[[int], float]:
    """Return the schedule as a function from the step number to a factor on the learning rate."""
    span, schedule = spec.max_steps or phase_steps, SCHEDULES[spec.schedule]

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (spec.warmup_steps + 1))
        return warm * schedule(spec, min(1.0, step / span))

    return factor
