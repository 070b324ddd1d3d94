"""Runs of an adaptation, each in a process of its own, inside the budget; one that fails is dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fercore.adaptation.budget import Budget, time_text
from fercore.adaptation.plan import Timing
from fercore.adaptation.state import State, write_state
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.experiments.cells import Cell, Entry, run_cell, slug
from fercore.experiments.source_model import method_layers
from fercore.isolation import outcomes
from fercore.records.plan import StepReport
from fercore.records.result import Result, Score, Scores
from fercore.runs.folder import RunFolder
from fercore.writing import WriteError

AS_IT_IS = "no_adaptation"
"""The plugin that scores and writes a model and trains nothing."""
PROBE_STEPS = 6
HELD_OUT = 0.1
"""Share of each source that is kept from training, for calibration and the estimate of class shares."""

Observe = Callable[[str], Observer]
Tell = Callable[[str], None]


class OutOfTime(UserInputError):
    """A run that would take the time of what comes after it."""


class Deadline(Observer):
    """Hears of a run, and ends it when its time is over.

    Args:
        observe: makes what else hears of it, from its label. until: seconds since the epoch. label: of the run.
    """

    def __init__(self, observe: Observe, until: float, label: str) -> None:
        self._inner, self._until = observe(label), until

    def message(self, text: str) -> None:
        """Hand it on."""
        self._inner.message(text)

    def begin(self, done: int, total: int) -> None:
        """Hand it on."""
        self._inner.begin(done, total)

    def step(self, report: StepReport, done: int) -> None:
        """Hand it on, unless the time is over.

        Raises:
            OutOfTime: if it is.
        """
        if time.time() > self._until:
            raise OutOfTime(f"took longer than was left for it, after {done} steps", where="--budget")
        self._inner.step(report, done)

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Hand it on."""
        self._inner.evaluated(scores, primary_metric, done)

    def end(self) -> None:
        """Hand it on."""
        self._inner.end()


@dataclass
class Race:
    """What every run of an adaptation has in common.

    Attributes:
        folder: of the adaptation. layers: settings of every run, later ones win. preset, seed: of every run.
        sources: whether there are any. start: run that methods start from; None = what the settings say.
        budget, state: of the adaptation. reserve: seconds that no run may take. observe: hears of each run.
        tell: hears what is run.
    """

    folder: Path
    layers: Sequence[Mapping[str, Any]]
    preset: str
    seed: int
    sources: bool
    budget: Budget
    state: State
    observe: Observe
    tell: Tell
    start: Path | None = None
    reserve: float = 0.0
    results: dict[str, Result] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the folder of a run by its name, such as "last/mcc"."""
        first, _, rest = name.partition("/")
        return self.folder / "runs" / first / slug(rest) if rest else self.folder / "runs" / first

    def run(
        self,
        name: str,
        entry: Entry,
        steps: int,
        *,
        start: Path | None = None,
        timing: Timing | None = None,
        more: Mapping[str, Any] | None = None,
        must: bool = False,
        silent: bool = False,
    ) -> Result | None:
        """Train a run, or go on with it; None if it is dropped, and why stands in the state.

        Args:
            name: of the run, and its folder. entry: plugins and settings. steps: of training. start: run whose model
                it starts from. timing: of a short run of it, by which it is not begun where no time is left for it.
            more: settings of this run alone. silent: whether nobody hears of its steps. must: whether nothing can be
            done without it: what it raises is raised.

        Raises:
            UserInputError: if it must end and does not. WriteError: if the disk is full, whatever run it is.
            KeyboardInterrupt: for a signal; the run has kept a checkpoint.
        """
        if name in self.state.dropped and not must:
            return None
        cell = self._cell(name, entry, steps, start, more or {})
        if RunFolder(cell.folder).finished:
            self.results[name] = RunFolder(cell.folder).result()
            return self.results[name]
        left = self.budget.left - self.reserve
        if timing is not None and timing.seconds(steps) > left and not must:
            self._drop(name, f"no time left for it: it takes {time_text(timing.seconds(steps))}")
            return None
        self.tell(f"[{time_text(max(0.0, self.budget.left))} left] {name}: {'+'.join(entry.plugins)}, {steps} steps")
        until = float("inf") if must else time.time() + max(left, 0.0)
        observe: Observe = _silent if silent else self.observe
        call = partial(run_cell, cell, partial(Deadline, observe, until))
        for _, answer in outcomes([(name, call)]):
            if isinstance(answer, WriteError) or (must and isinstance(answer, Exception)):
                raise answer
            if isinstance(answer, Exception):
                self._drop(name, (str(answer) or type(answer).__name__).splitlines()[0])
                return None
            self.results[name] = answer
        return self.results[name]

    def probe(self, label: str, entry: Entry, *, start: Path | None, must: bool = False) -> Timing | None:
        """Take a few steps of a method and return what they took; None if it cannot run here.

        Raises:
            UserInputError: if it must, and cannot.
        """
        if label in self.state.timing:
            return self.state.timing[label]
        begun = time.monotonic()
        result = self.run(f"probe/{label}", entry, PROBE_STEPS, start=start, must=must, silent=True)
        if result is None:
            return None
        # A stream is as long as the target: what it took goes by no number of steps.
        trained = result.train_seconds if result.online is None else 0.0
        timing = Timing(
            step=trained / max(1, result.steps),
            around=max(0.0, time.monotonic() - begun - trained),
            memory_mb=result.peak_memory_mb,
        )
        self.state.timing[label] = timing
        write_state(self.folder, self.state)
        return timing

    def _cell(self, name: str, entry: Entry, steps: int, start: Path | None, more: Mapping[str, Any]) -> Cell:
        # The model as it is takes sources too: it may be calibrated on them.
        alone = method_layers(entry.plugins) if self.sources and entry.plugins != (AS_IT_IS,) else []
        unheld = {"data": {"source_validation": 0.0}, "predict": {"calibrate": False}}
        own: list[Mapping[str, Any]] = [*alone, *([unheld] if alone else [])]
        last = {"train": {"steps": steps}, "seed": self.seed}
        layers = (*self.layers, *own, entry.settings, last, more)
        return Cell(entry, layers, self.preset, self.path(name), name, start)

    def _drop(self, name: str, reason: str) -> None:
        self.state.dropped[name] = reason
        write_state(self.folder, self.state)
        self.tell(f"{name}: dropped: {reason}")


def _silent(label: str) -> Observer:
    return Observer()
