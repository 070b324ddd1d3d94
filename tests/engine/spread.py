"""Runs of several processes for tests: each makes the same call, with variables that say which one it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from fercore.config import RunConfig, merge
from fercore.engine.observer import Observer
from fercore.engine.phases import PhaseRunner
from fercore.engine.several import places_here
from fercore.engine.trainer import Trainer
from fercore.isolation import group
from fercore.models.shards import divided
from fercore.records.plan import StepReport
from fercore.runs.folder import ReadFolder
from fercore.stopping import StopRequest
from fercore.testing import tiny_context

T = TypeVar("T")
BATCHES = {"data": {"source_batch": 32, "target_batch": 16}}
"""What four processes can share."""
DOUBLE = {"train": {"precision": "64-true", "memory_format": "contiguous", "steps": 10, "checkpoint_every": 1000}}


def in_processes(number: int, call: Callable[[], T]) -> T:
    """Return what a call returns in the first of so many processes, which make it together."""
    return group(call, places_here(RunConfig(devices=number)))


def train_steps(names: Sequence[str], layers: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    """Train in this process, one of `number`; return what each phase of each step came to."""
    torch.set_num_threads(1)
    context = tiny_context(names, [BATCHES, *layers, {"devices": number}])
    gradients: list[dict[str, torch.Tensor]] = []
    terms: list[tuple[str, dict[str, float]]] = []
    step = PhaseRunner.optimizer_step

    def kept(runner: PhaseRunner, fabric: Any) -> None:
        named = context.model.named_parameters()
        gradients.append({name: _whole(p.grad) for name, p in named if p.grad is not None})
        step(runner, fabric)

    class Terms(Observer):
        def step(self, report: StepReport, done: int) -> None:
            terms.append((report.phase, dict(report.terms)))

    trainer = Trainer(context, ReadFolder(Path("nowhere")), Terms(), StopRequest())
    trainer.save = lambda: None  # type: ignore[method-assign]
    PhaseRunner.optimizer_step = kept  # type: ignore[method-assign]
    try:
        trainer.train()
    finally:
        PhaseRunner.optimizer_step = step  # type: ignore[method-assign]
    # As numbers: tensors are handed to another process by shared memory, which ends with this one.
    plain = [{name: gradient.numpy() for name, gradient in each.items()} for each in gradients]
    with context.whole():
        state = {name: value.numpy() for name, value in context.trained.state_dict().items()}
        reported = {name: value.numpy() for name, value in context.reported.state_dict().items()}
    return {
        "terms": terms,
        "gradients": plain,
        "state": state,
        "reported": reported,
        "random": torch.get_rng_state().numpy(),
    }


def _whole(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.full_tensor() if divided(gradient) else gradient.clone()  # type: ignore[attr-defined,no-any-return]


def steps_of(names: str, number: int, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each phase of each step comes to for METHOD[+ADDON...] in `number` processes, in float64."""
    layer: dict[str, Any] = dict(DOUBLE)
    for each in layers:
        layer = merge(layer, each)
    return in_processes(number, partial(train_steps, names.split("+"), [layer], number))


def main_in(folder: Path) -> dict[str, str]:
    """Return an environment for commands of a test, whose caches are in a folder."""
    return {**os.environ, "FERCORE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
