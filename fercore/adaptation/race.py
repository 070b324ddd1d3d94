"""Runs of an adaptation, each in a process of its own and in its share of the time; one that fails is dropped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fercore.adaptation.budget import Budget, time_text
from fercore.adaptation.deadline import Deadline
from fercore.adaptation.plan import Timing
from fercore.adaptation.state import State, write_state
from fercore.engine.observer import Observer
from fercore.experiments.cells import Cell, Entry, run_cell, slug
from fercore.experiments.executors import CellCall, Executor, LocalExecutor, silent
from fercore.experiments.source_model import method_layers
from fercore.records.result import Result
from fercore.runs import checkpoint
from fercore.runs.folder import RESULT, RunFolder
from fercore.writing import WriteError

AS_IT_IS, REFERENCE, SOURCE_MODEL = "no_adaptation", "source_only", "source_model"
"""Rows that every adaptation has: the model as it is, training on without adapting, and what both start from.

The first two are plugins too; that of the first scores and writes a model and trains nothing.
"""
PROBE_STEPS = 6
HELD_OUT = 0.1
"""Share of each source that is kept from training, for calibration and the estimate of class shares."""
WORTHWHILE = 4
"""A run is not begun where its share of the time is expected to end it before one of so many parts of its steps."""

Observe = Callable[[str], Observer]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """A run that is wanted.

    Attributes:
        name: of the run, and its folder, such as "last/mcc". entry: plugins and settings. steps: of training.
        start: run whose model it starts from. timing: of a short run of it, by which it gets its share of the time;
            None = it may take all that is left. more: settings of this run alone. must: whether nothing can be done
            without it: what it raises is raised. least: steps that a run which must end has, whatever the time;
            None = all of them.
    """

    name: str
    entry: Entry
    steps: int
    start: Path | None = None
    timing: Timing | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    must: bool = False
    least: int | None = None

    @property
    def seconds(self) -> float:
        """How long it takes, as far as that is known."""
        return 0.0 if self.timing is None else self.timing.seconds(self.steps)


@dataclass
class Race:
    """What every run of an adaptation has in common.

    Attributes:
        folder: of the adaptation. layers: settings of every run, later ones win. preset, seed: of every run.
        sources: whether there are any. budget, state: of the adaptation. observe: hears of each run. tell: hears what
            is run. executor: runs them. jobs: how many of them at a time. reserve: seconds that no run may take.
        ahead: seconds that are planned for what comes after the runs at hand.
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
    executor: Executor = field(default_factory=LocalExecutor)
    jobs: int = 1
    reserve: float = 0.0
    ahead: float = 0.0
    results: dict[str, Result] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """Return the folder of a run by its name, such as "last/mcc"."""
        first, _, rest = name.partition("/")
        return self.folder / "runs" / first / slug(rest) if rest else self.folder / "runs" / first

    def run(self, wanted: Training, *, quiet: bool = False) -> Result | None:
        """Train one run by itself, with all threads of this machine; else as `run_each`."""
        local = isinstance(self.executor, LocalExecutor)
        self._run([wanted], LocalExecutor() if local else self.executor, 1, quiet=quiet)
        return self.results.get(wanted.name)

    def run_each(self, wanted: Sequence[Training]) -> None:
        """Train runs, or go on with them, `jobs` at a time; why one is dropped stands in the state.

        Each may take its share of the time that is left: what is planned for it, of all that is planned from then on.
        On a machine that has become slower all of them are ended early then, rather than the last ones left out.

        Raises:
            UserInputError: if one that must end does not. WriteError: if the disk is full, whatever run it is.
            KeyboardInterrupt: for a signal; the runs have kept checkpoints.
        """
        self._run(wanted, self.executor, self.jobs, quiet=False)

    def _run(self, wanted: Sequence[Training], executor: Executor, jobs: int, *, quiet: bool) -> None:
        begun: list[Training] = []
        observe = executor.observing(silent if quiet else self.observe)
        with closing(executor.run(self._calls(wanted, begun, observe, jobs))) as answers:
            for number, answer in answers:
                one = begun[number]
                if isinstance(answer, WriteError) or (one.must and isinstance(answer, Exception)):
                    raise answer
                if isinstance(answer, Exception):
                    self._drop(one.name, (str(answer) or type(answer).__name__).splitlines()[0])
                else:
                    self.results[one.name] = answer

    def _calls(
        self, wanted: Sequence[Training], begun: list[Training], observe: Observe, jobs: int
    ) -> Iterator[CellCall]:
        """Yield the runs that are left as there is room for them, each with the time that it may take from then on."""
        planned = sum(one.seconds for one in wanted)
        for one in wanted:
            left = max(0.0, self.budget.left - self.reserve)
            share = min(left, self._share(one, left, planned / jobs))
            planned -= one.seconds
            if one.name in self.state.dropped and not one.must:
                continue
            cell = self._cell(one)
            if RunFolder(cell.folder).finished:
                self.results[one.name] = RunFolder(cell.folder).result()
                continue
            if one.timing is not None and not one.must and one.timing.seconds(one.steps // WORTHWHILE) > share:
                self._drop(one.name, f"no time left for it: it takes {time_text(one.seconds)}")
                continue
            text = time_text(max(0.0, self.budget.left))
            self.tell(f"[{text} left] {one.name}: {'+'.join(one.entry.plugins)}, {one.steps} steps")
            begun.append(one)
            yield CellCall(
                one.name, partial(run_cell, cell, self._watched(one, observe, share)), cell.folder, one.start
            )

    def _share(self, one: Training, left: float, planned: float) -> float:
        """Return the seconds that a run may take of those left, with so many planned for it and those beside it."""
        return left * one.seconds / max(1e-9, max(planned, one.seconds) + self.ahead) if one.timing else left

    def _watched(self, one: Training, observe: Observe, share: float) -> Observe:
        """Return what hears of a run and ends it in its share of the time, scoring and writing included."""
        if one.must and one.least is None:
            return observe
        after = 0.0 if one.timing is None else one.timing.after
        return partial(Deadline, observe, share - after, one.least or 1)

    def probe(self, label: str, entry: Entry, *, start: Path | None, must: bool = False) -> Timing | None:
        """Take a few steps of a method and return what they took; None if it cannot run here.

        Raises:
            UserInputError: if it must, and cannot.
        """
        if label in self.state.timing:
            return self.state.timing[label]
        name = f"probe/{label}"
        # Of a process that was killed: what it had taken by then nobody knows.
        shutil.rmtree(self.path(name), ignore_errors=True)
        begun = time.monotonic()
        one = Training(name, entry, PROBE_STEPS, start, must=must)
        if must:
            self.run(one, quiet=True)
        else:
            self._run([one], self.executor, 1, quiet=True)
        if (result := self.results.get(name)) is None:
            return None
        # A stream is as long as the target: what it took goes by no number of steps.
        trained = result.train_seconds if result.online is None else 0.0
        timing = Timing(
            step=trained / max(1, result.steps),
            around=max(0.0, time.monotonic() - begun - trained),
            after=_after_training(RunFolder(self.path(name))),
            memory_mb=result.peak_memory_mb,
        )
        self.state.timing[label] = timing
        write_state(self.folder, self.state)
        return timing

    def _cell(self, one: Training) -> Cell:
        # The model as it is takes sources too: it may be calibrated on them.
        entry = one.entry
        alone = method_layers(entry.plugins) if self.sources and entry.plugins != (AS_IT_IS,) else []
        unheld = {"data": {"source_validation": 0.0}, "predict": {"calibrate": False}}
        own: list[Mapping[str, Any]] = [*alone, *([unheld] if alone else [])]
        last = {"train": {"steps": one.steps}, "seed": self.seed}
        layers = (*self.layers, *own, entry.settings, last, one.more)
        return Cell(entry, layers, self.preset, self.path(one.name), one.name, one.start)

    def _drop(self, name: str, reason: str) -> None:
        self.state.dropped[name] = reason
        write_state(self.folder, self.state)
        self.tell(f"{name}: dropped: {reason}")


def entry_of(plugin: str) -> Entry:
    """Return the row of a plugin with its own settings."""
    return Entry(plugin, (plugin,), {})


def _after_training(folder: RunFolder) -> float:
    """Return the seconds from the last step of a finished run to its result, by the clock of the disk."""
    newest = checkpoint.newest(folder.checkpoints)
    result = (folder.path / RESULT).stat().st_mtime
    return 0.0 if newest is None else max(0.0, result - newest.stat().st_mtime)
