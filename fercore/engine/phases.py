"""Phases made runnable: which parameters they train, with which optimiser, on which schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from fercore.documents import Shape, misfit
from fercore.hooks.checks import HookError
from fercore.models.shards import divided, own_part, part_of, whole_of
from fercore.optimisers import OPTIMISERS, SCHEDULES
from fercore.processes import Processes
from fercore.records.plan import OptimiserSpec, ParamGroup, Phase, Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricOptimizer


class _Schedule(Shape):
    last_epoch: int = Field(ge=0)
    step_count: int = Field(alias="_step_count", ge=0)


class ScheduledOptimiser:
    """An optimiser with its schedule, of one phase or of several of a stage.

    Args:
        fabric: device and precision.
        phase: the phase that says what it holds, and how it steps.
        stage: the stage it belongs to.
        trainable: the network's trainable parameters by name, already on their device.
        fused: update all weights in one pass, where torch has that for the optimiser; it rounds differently.
    """

    def __init__(
        self, fabric: Fabric, phase: Phase, stage: Stage, trainable: dict[str, nn.Parameter], *, fused: bool
    ) -> None:
        self.name = phase.name
        spec = phase.optimiser
        self._fresh = spec.reset_optimizer_state
        groups = [(group, assign(trainable, phase.groups, group)) for group in phase.groups]
        # A group may be empty in this network (a frozen backbone), not all of them.
        groups = [(group, members) for group, members in groups if members]
        if not groups:
            raise HookError(f"phase {phase.name!r} of stage {stage.name!r} trains no parameter")
        self.members = frozenset(id(p) for _, members in groups for p in members)
        # Decay of its own, not times the learning rate: no optimiser of torch has that, so it is taken before the step.
        self._decays = [] if spec.decay_by_rate else [(members, _decay(spec, group)) for group, members in groups]
        # Of weights that processes have parts of it holds the part here, in the same memory: an optimiser takes each
        # number by itself, and none of them takes whole tensors and parts together.
        self._parts = {p: nn.Parameter(own_part(p)) for _, members in groups for p in members if divided(p)}
        held = [(group, [self._parts.get(p, p) for p in members]) for group, members in groups]
        optimiser = OPTIMISERS[spec.name]([_settings(spec, group, members) for group, members in held], spec, fused)
        self._plain = optimiser
        self.schedule = LambdaLR(optimiser, rate_factor(spec, own_steps(stage, phase)))
        self.optimiser = cast("_FabricOptimizer", fabric.setup_optimizers(optimiser))

    def begin_epoch(self) -> None:
        """Forget momentum and moments, where the settings ask for it."""
        if self._fresh:
            self.forget()

    def forget(self) -> None:
        """Forget momentum and moments."""
        # The optimiser stays: its groups and the schedule's place in them are no memory of gradients.
        self._plain.state.clear()

    def step(self, mine: Collection[int]) -> None:
        """Step parameters that have a gradient; decay outside the momentum is for the ids `mine` alone."""
        with torch.no_grad():
            for members, decay in self._decays:
                own: list[Tensor] = [own_part(p) for p in members if id(p) in mine]
                if own:
                    torch._foreach_mul_(own, 1 - decay)
        for parameter, part in self._parts.items():
            part.grad = None if parameter.grad is None else own_part(parameter.grad)
        self.optimiser.step()

    def zero_grad(self) -> None:
        """Leave no gradient in any parameter."""
        self.optimiser.zero_grad(set_to_none=True)
        for parameter in self._parts:
            parameter.grad = None

    def advance(self) -> None:
        """Take one step of the schedule: one a batch, however often the optimiser stepped in it."""
        self._plain._opt_called = True  # type: ignore[attr-defined]  # torch warns where every step was skipped
        self.schedule.step()

    def learning_rates(self) -> list[float]:
        """Return the current learning rate of each parameter group."""
        return [float(group["lr"]) for group in self.optimiser.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimiser and schedule, as one process has it; where weights are divided all call it."""
        schedule = {"last_epoch": self.schedule.last_epoch, "_step_count": self.schedule._step_count}
        return {"optimiser": self._converted(self._plain.state_dict(), whole_of), "schedule": schedule}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            Exception: of any kind, if it is the state of another optimiser.
        """
        # load_state_dict takes the saved groups' settings over without a word.
        own = [_fixed(group) for group in self._plain.param_groups]
        self._plain.load_state_dict(self._converted(state["optimiser"], part_of))
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
        # The counters alone: the saved state of LambdaLR leaves its function out, and rates follow from the counter.
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.schedule._step_count = state["schedule"]["_step_count"]

    def _converted(self, state: dict[str, Any], convert: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        """Return the optimiser's state with what it keeps of divided weights converted, each by its parameter."""
        owners = {id(part): parameter for parameter, part in self._parts.items()}
        held = [part for group in self._plain.param_groups for part in group["params"]]
        kept = dict(state["state"])
        for number, part in enumerate(held):
            if id(part) in owners and number in kept:
                like = owners[id(part)]
                kept[number] = {
                    name: convert(value, like) if isinstance(value, Tensor) and value.ndim else value
                    for name, value in kept[number].items()
                }
        return {**state, "state": kept}

    def _check_kept(self, parameter: Tensor, kept: dict[str, Any]) -> None:
        """Make sure that what an optimiser keeps of a parameter is what a step of it reads."""
        shapes = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter.shape) | {"step": torch.Size()}
        # SGD keeps one buffer, or none without momentum; Adam two moments and a count of steps.
        if "betas" not in self._plain.defaults:
            shapes = {} if kept == {"momentum_buffer": None} else {"momentum_buffer": parameter.shape}
        shapes_kept = {name: value.shape for name, value in kept.items() if value is not None}
        positive = (kept[name] for name in ("step", "exp_avg_sq") if name in kept)
        if shapes_kept != shapes or not all(bool((value >= 0).all()) for value in positive):
            raise ValueError(f"the optimiser of phase {self.name!r} was another one, or of other parameters")


class PhaseRunner:
    """A phase made runnable: the parameters it trains, and the optimiser that steps them.

    Args:
        fabric: device and precision.
        phase: what to train, and how.
        stage: the stage it belongs to; parameters no phase of the stage trains stay frozen in it.
        model: the network, already on its device.
        fused: as for `ScheduledOptimiser`.
        earlier: the stage's phases before this one, of which it may share an optimiser.

    Raises:
        HookError: for a phase that trains nothing, or shares an optimiser that does not hold what it trains.
    """

    def __init__(
        self,
        fabric: Fabric,
        phase: Phase,
        stage: Stage,
        model: nn.Module,
        *,
        fused: bool = False,
        earlier: Sequence[PhaseRunner] = (),
    ) -> None:
        self.name, self.repeats = phase.name, phase.repeats
        # Over the gradient of all that the phase trains, several groups together.
        self._clip = phase.clip_grad_norm
        self._model = model
        self._processes = Processes(fabric.global_rank, fabric.world_size)
        # Runners of one stage are built before any of them freezes a parameter.
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._all = list(trainable.values())
        self._mine: Collection[int]
        if phase.shares is None:
            self.scheduled = ScheduledOptimiser(fabric, phase, stage, trainable, fused=fused)
            self._mine = self.scheduled.members
        else:
            self.scheduled = next(runner.scheduled for runner in earlier if runner.name == phase.shares)
            self._mine = frozenset(id(p) for group in phase.groups for p in assign(trainable, phase.groups, group))
            if not self._mine or not self._mine <= self.scheduled.members:
                what = "trains no parameter" if not self._mine else "trains parameters outside the optimiser it shares"
                raise HookError(f"phase {phase.name!r} of stage {stage.name!r} {what}")

    def activate(self) -> None:
        """Let gradients flow to this phase's parameters only."""
        for parameter in self._all:
            parameter.requires_grad_(id(parameter) in self._mine)

    def release(self) -> None:
        """Make every trainable parameter trainable again, as before the stage."""
        for parameter in self._all:
            parameter.requires_grad_(True)

    def backward(self, fabric: Fabric, total: Tensor) -> None:
        """Leave the gradient of `total` in the parameters; none where it depends on none of them."""
        # A parameter of another phase keeps no gradient, so that a shared optimiser passes it and its moments over.
        self.scheduled.zero_grad()
        if total.requires_grad:
            fabric.backward(total)
        # Here, and not by a wrapper that does it meanwhile: phases freeze and thaw parameters, run several forwards for
        # one step, and leave some parameters without a gradient, all of which such a wrapper must be told beforehand.
        # Those of divided weights are averaged as they are divided, while the pass is under way.
        self._processes.average_gradients([p for p in self._all if id(p) in self._mine and not divided(p)])

    def optimizer_step(self, fabric: Fabric) -> None:
        """Take one optimiser step down the gradient that is in the parameters."""
        if self._clip is not None:
            optimiser = self.scheduled.optimiser
            fabric.clip_gradients(self._model, optimiser, max_norm=self._clip, error_if_nonfinite=False)
        self.scheduled.step(self._mine)

    def learning_rates(self) -> list[float]:
        """Return the current learning rate of each parameter group of the optimiser."""
        return self.scheduled.learning_rates()


def runners_of(fabric: Fabric, stage: Stage, model: nn.Module, *, fused: bool = False) -> list[PhaseRunner]:
    """Return the phases of a stage in order, made runnable; arguments as for `PhaseRunner`."""
    runners: list[PhaseRunner] = []
    for phase in stage.phases:
        runners.append(PhaseRunner(fabric, phase, stage, model, fused=fused, earlier=runners))
    return runners


def optimisers_of(runners: Sequence[PhaseRunner]) -> list[ScheduledOptimiser]:
    """Return the optimisers of phases, each once."""
    return list(dict.fromkeys(runner.scheduled for runner in runners))


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


def own_steps(stage: Stage, phase: Phase) -> int:
    """Return on how many batches the optimiser of a phase is in use: on all, or in the turns of phases that have it."""
    # A shared optimiser steps in the turns of every phase that shares it.
    users = sum(phase.name in (other.name, other.shares) for other in stage.phases)
    return stage.steps if stage.alternating == "step" else math.ceil(stage.steps * users / len(stage.phases))


def rate_factor(spec: OptimiserSpec, phase_steps: int) -> Callable[[int], float]:
    """Return the schedule as a function from the step number to a factor on the learning rate."""
    span, schedule = spec.max_steps or phase_steps, SCHEDULES[spec.schedule]

    def factor(step: int) -> float:
        # + 1 twice: the first step is not at rate 0, and warmup_steps = 0 means none.
        warm = min(1.0, (step + 1) / (spec.warmup_steps + 1))
        return warm * schedule(spec, min(1.0, step / span))

    return factor
