"""The records around a step that hold no tensors: stages, phases, view requests, reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Transform: TypeAlias = Literal["none", "weak", "strong"]


@dataclass(frozen=True)
class ViewRequest:
    """A method's wish for one augmented view of each sample of a side.

    Attributes:
        side: "source" or "target".
        name: key under DomainBatch.images ("weak", "weak2", "strong", ...); two plugins asking for one name share it.
        transform: which augmentation policy makes it; each name draws its own random numbers.
    """

    side: Literal["source", "target"]
    name: str
    transform: Transform


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate.

    Attributes:
        prefixes: parameters of the model whose qualified name starts with one of these ("" = every one left over).
        lr_multiplier: factor on the optimiser's learning rate.
        weight_decay: overrides the optimiser's where given.
    """

    prefixes: tuple[str, ...]
    lr_multiplier: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimiserSpec:
    """One optimiser and its learning-rate schedule.

    Attributes:
        name: "sgd", "adam" or "adamw".
        lr: base learning rate. momentum, nesterov: SGD only. betas: Adam only.
        schedule: "constant", "inverse_decay" (lr * (1 + gamma * min(1, step/max_steps))^-power), "cosine", "linear".
        warmup_steps: linear warm-up from 0 before the schedule.
        max_steps: steps after which the schedule stays where it is; None = the stage's steps.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    schedule: Literal["constant", "inverse_decay", "cosine", "linear"] = "inverse_decay"
    gamma: float = 10.0
    power: float = 0.75
    max_steps: int | None = None
    warmup_steps: int = 0


@dataclass(frozen=True)
class Phase:
    """One forward, backward and optimiser step over some of the parameters.

    A stage with several phases runs each of them, in order, on every batch; outside its phase a parameter is frozen.

    Attributes:
        name: what hooks see as clock.phase.
        groups: parameters the phase trains; a parameter belongs to the group with its longest matching prefix.
        optimiser: its own optimiser and schedule.
        clip_grad_norm: largest gradient norm; None = unlimited.
    """

    name: str = "main"
    groups: tuple[ParamGroup, ...] = (ParamGroup(("",)),)
    optimiser: OptimiserSpec = field(default_factory=OptimiserSpec)
    clip_grad_norm: float | None = None


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one set of optimisers.

    Attributes:
        name: what hooks see as clock.stage.
        steps: batches in the stage.
        phases: run in order on every batch.
        steps_per_epoch: batches between two `refresh` calls; None = one pass over the larger side's shortest domain.
    """

    name: str
    steps: int
    phases: tuple[Phase, ...] = (Phase(),)
    steps_per_epoch: int | None = None


@dataclass(frozen=True)
class StepReport:
    """What one phase of one step did.

    Attributes:
        terms: term name -> weighted value; total: their sum; lr: learning rate of each group; images: samples seen.
    """

    stage: str
    phase: str
    epoch: int
    step: int
    terms: Mapping[str, float]
    total: float
    lr: Sequence[float]
    images: int


@dataclass(frozen=True)
class RunResult:
    """A finished run, for `after_run` hooks.

    Attributes:
        folder: the run folder; record: the contents of result.json.
    """

    folder: str
    record: Mapping[str, Any]
