"""A search: settings of one row of a study are tried, and the best taken by a score without target labels.

Optuna draws the settings and says which runs to cut; its journal in the study's folder is the record of all trials, so
that a search that was killed goes on with the trials it had.
"""

from __future__ import annotations

import math
import shlex
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from filelock import FileLock, Timeout

from fercore.config import nested
from fercore.documents import parse_json
from fercore.engine.observer import Observer
from fercore.errors import UserInputError, reason_of
from fercore.experiments.cells import check_cells, run_cell
from fercore.experiments.executors import CellCall, Executor, LocalExecutor, silent
from fercore.experiments.search_file import ORACLE, SearchFile
from fercore.experiments.search_space import Axis, grid_of, plan_search
from fercore.experiments.search_table import write_records
from fercore.experiments.search_trials import NAME, Trials, open_journal, search_package
from fercore.experiments.study import STUDY, StudyCell
from fercore.files import read_bytes, read_text
from fercore.isolation import apart
from fercore.records.plan import StepReport
from fercore.records.result import Result, Score, Scores
from fercore.runs.folder import RunFolder
from fercore.stopping import Interrupted, number_of
from fercore.writing import cut, make_parents, writing


class Pruned(Exception):
    """A run was cut: at the same point most others had a better score."""


class Search(Trials):
    """The trials of a study's [search], and what runs them.

    Args:
        study: a study with one.

    Raises:
        UserInputError: if it has none, Optuna is not installed, or the journal of its folder is damaged.
    """

    def cells(self, trial: int, settings: Mapping[str, Any], over: Mapping[str, Any]) -> list[StudyCell]:
        """Return the runs of a trial: one a pair and seed.

        Args:
            trial: its number. settings: dotted name -> value. over: what every trial has besides.
        """
        layers = [over, *(nested(name, value) for name, value in settings.items())]
        file = self.study.file
        return [
            self.study.cell(self.row, pair.name, seed, over=layers, trial=trial)
            for seed in file.seeds
            for pair in file.pairs
        ]

    def run(
        self, *, jobs: int = 1, executor: Executor | None = None, observe: Callable[[str], Observer] = silent
    ) -> None:
        """Run the trials that the budget leaves, after what the row starts from.

        Args:
            jobs, executor, observe: as for `Study.run`.

        Raises:
            UserInputError: as `Study.run`; for a space outside the settings' bounds, and a folder of another search.
            Interrupted: for a signal; says how to go on.
        """
        executor, file = executor or LocalExecutor(jobs), self.study.file
        with self._alone():
            self._refuse_other()
            first = self.study.cell(self.row, *self.anywhere)
            plan = next(apart([(NAME, partial(plan_search, first.cell, self.file))]))
            axes, grid = plan.axes, None
            if self.file.sampler == "grid":
                axes = tuple(Axis(axis.name, tuple(axis.points())) for axis in axes)
                grid = grid_of(axes)
            bases = [self.study.cell(self.row, pair.name, file.seeds[0], over=[plan.layer]) for pair in file.pairs]
            check_cells([base.cell for base in bases], jobs, scored=self.uses_target_labels or self.file.oracle)
            if self.study.cells and not self.study.run(jobs=jobs, executor=executor, observe=observe).complete:
                what = f"what {self.row} starts from failed"
                raise UserInputError(what, where=str(self.study.out), fix="see `fercore study DIR --status`")
            self.study.write_file()
            _mend(self.path)
            trials = _Drawn(self, axes, plan.layer, grid, observe, executor.observing(observe))
            try:
                for number, answer in executor.run(trials.calls()):
                    trials.heard(number, answer)
                    write_records(self)
            except KeyboardInterrupt as stop:
                again = f"the same command with --out {shlex.quote(str(self.study.out))} goes on"
                raise Interrupted(number_of(stop), f"interrupted; {again}") from None
            write_records(self)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from the same search."""
        make_parents(self.path)
        lock = FileLock(self.path.with_suffix(".lock"))
        with writing(self.path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                what, fix = "another process is at work in that search", "wait for it, or stop it"
                raise UserInputError(what, where=str(self.study.out), fix=fix) from None
        try:
            yield
        finally:
            lock.release()

    def _refuse_other(self) -> None:
        """Refuse a folder with trials of another search: only the budget may change.

        Raises:
            UserInputError: naming what is different.
        """
        if not self.path.is_file():
            return
        try:
            before = parse_json(read_text(self.study.out / STUDY), where=str(self.study.out))
            earlier = type(self.study.file).model_validate(before)
        except (OSError, ValueError) as error:
            fix = "choose another --out"
            what = f"cannot read {STUDY}: {reason_of(error)}"
            raise UserInputError(what, where=str(self.study.out), fix=fix) from None
        old, new = _identity(earlier), _identity(self.study.file)
        if changed := [name for name in new if old[name] != new[name]]:
            what = f"folder holds a search with other {', '.join(changed)}"
            fix = "choose another --out; trials and hours may change"
            raise UserInputError(what, where=str(self.study.out), fix=fix)


def _identity(file: Any) -> dict[str, Any]:
    """Return what trials depend on."""
    whole = file.model_dump(mode="json", by_alias=True, exclude={"title", "paper", "reference", "scales"})
    whole["search"] = {key: value for key, value in whole["search"].items() if key not in ("trials", "hours")}
    return dict(whole)


def _mend(path: Path) -> None:
    """Cut off the line that a process was killed in."""
    with suppress(FileNotFoundError):
        text = read_bytes(path)
        if text and not text.endswith(b"\n"):
            cut(path, text.rfind(b"\n") + 1)


class _Drawn:
    """Draws trials as there is room for them, and takes what their runs come to."""

    def __init__(
        self,
        search: Search,
        axes: Sequence[Axis],
        over: Mapping[str, Any],
        grid: list[dict[str, Any]] | None,
        observe: Callable[[str], Observer],
        watching: Callable[[str], Observer],
    ) -> None:
        self._search, self._axes, self._over = search, axes, over
        self._observe, self._watching = observe, watching
        self._file, self._study, self._optuna = search.file, search.optuna_study, search._optuna
        if grid is not None:
            Random(self._file.seed).shuffle(grid)  # a budget smaller than the grid takes no corner of it
        self._grid = grid
        self._begun, self._spent = time.monotonic(), float(self._study.user_attrs.get("seconds", 0.0))
        self._waiting: deque[tuple[Any, StudyCell]] = deque()
        self._given: list[tuple[Any, StudyCell]] = []
        self._left: dict[int, int] = {}
        # Begun before a kill: their finished runs are kept, the others go on.
        running = self._optuna.trial.TrialState.RUNNING
        for frozen in self._study.get_trials(deepcopy=False, states=(running,)):
            self._enter(self._optuna.trial.Trial(self._study, frozen._trial_id), frozen.number)

    def _enter(self, trial: Any, number: int) -> None:
        self._study.sampler = self._sampler(number)
        for axis in self._axes:
            axis.suggest(trial)
        cells = self._search.cells(trial.number, trial.params, self._over)
        self._left[trial.number] = len(cells)
        self._waiting.extend((trial, cell) for cell in cells)

    def calls(self) -> Iterator[CellCall]:
        """Yield runs: those of trials that are begun, then of new ones while the budget lasts."""
        while self._waiting or self._draw():
            trial, cell = self._waiting.popleft()
            # Scores of one cell at the same step are comparable, those of several are not: the first is watched.
            watched = self._file.pruner != "none" and cell.cell.folder == self._cells_of(trial)[0].cell.folder
            observe: Callable[[str], Observer] = self._watching
            if watched:
                observe = partial(
                    Watched, self._watching, self._search.path.absolute(), self._file, trial._trial_id, self._metric
                )
            self._given.append((trial, cell))
            yield CellCall(cell.cell.label, partial(run_cell, cell.cell, observe), cell.cell.folder, cell.cell.start)

    @property
    def _metric(self) -> Score:
        return self._search.study.file.primary_metric

    def _cells_of(self, trial: Any) -> list[StudyCell]:
        return self._search.cells(trial.number, trial.params, self._over)

    def _draw(self) -> bool:
        """Draw a trial; False = the budget is used up."""
        number = len(self._study.get_trials(deepcopy=False))
        waiting = self._optuna.trial.TrialState.WAITING
        number -= len(self._study.get_trials(deepcopy=False, states=(waiting,)))
        most = min(self._file.trials or math.inf, math.inf if self._grid is None else len(self._grid))
        if number >= most or self._spent_now() >= 3600 * (self._file.hours or math.inf):
            return False
        if self._grid is not None:
            self._study.enqueue_trial(self._grid[number], skip_if_exists=True)
        self._study.sampler = self._sampler(number)
        self._enter(self._study.ask(), number)
        return True

    def _sampler(self, number: int) -> Any:
        """Return what draws a trial."""
        # A seed for every trial by itself: what is drawn does not hang on how often the search was stopped.
        seed, samplers = (self._file.seed * 1_000_003 + number) % 2**32, self._optuna.samplers
        if self._file.sampler == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=self._file.startup)
        return samplers.RandomSampler(seed)

    def _spent_now(self) -> float:
        return self._spent + time.monotonic() - self._begun

    def heard(self, number: int, answer: Result | Exception) -> None:
        """Take the result of the run that was given as number `number`; a trial ends with its last."""
        trial, _ = self._given[number]
        if trial.number not in self._left:
            return  # ended by another of its runs
        if isinstance(answer, Exception):
            self._end(trial, answer)
            return
        self._left[trial.number] -= 1
        if not self._left[trial.number]:
            self._end(trial, None)

    def _end(self, trial: Any, fault: Exception | None) -> None:
        del self._left[trial.number]
        self._waiting = deque(pair for pair in self._waiting if pair[0].number != trial.number)
        states, told = self._optuna.trial.TrialState, self._observe(NAME)
        value: float | None = None
        cells = self._cells_of(trial)
        done = [RunFolder(cell.cell.folder) for cell in cells if RunFolder(cell.cell.folder).finished]
        if fault is None:
            try:
                value = statistics.fmean(score_of(run, self._file.objective, self._metric) for run in done)
            except UserInputError as error:
                fault = error
        if isinstance(fault, Pruned):
            text, state = "pruned", states.PRUNED
        elif fault is not None:
            reason = str(fault) if isinstance(fault, UserInputError) else f"{type(fault).__name__}: {fault}"
            trial.set_user_attr("reason", reason)
            text, state = f"failed: {reason}", states.FAIL
        else:
            text, state = f"{self._search.objective} {value:.4f}", states.COMPLETE
        results = [run.result() for run in done]
        trial.set_user_attr("seconds", sum(result.train_seconds for result in results))
        if self._file.oracle and state == states.COMPLETE:
            own = [score for result in results if (score := result.target.score(self._metric)) is not None]
            trial.set_user_attr("oracle", statistics.fmean(own))
        self._study.tell(trial, value, state=state)
        self._study.set_user_attr("seconds", self._spent_now())
        told.message(f"trial {trial.number}: {text}")


def score_of(run: RunFolder, objective: str, metric: Score) -> float:
    """Return a finished run's score.

    Args:
        objective: name of a score without labels, or `ORACLE`. metric: the target's own score for that.

    Raises:
        UserInputError: if the run has none.
    """
    result = run.result()
    if objective == ORACLE:
        value = result.target.score(metric)
    else:
        lines = [line for line in run.logged() if line.get("kind") == "selection"]
        chosen = result.selection.step
        ends = [line for line in lines if chosen is None or line["done"] == chosen]
        value = ends[-1].get(objective) if ends else None
    if not isinstance(value, int | float):
        what = f"score {objective!r} is not defined for this run"
        raise UserInputError(what, where=str(run.path), fix="name another under search.objective")
    return float(value)


class Watched(Observer):
    """Hands on what a run says, and cuts it where most other trials had a better score.

    Args:
        observe: makes what hears of the run. journal: the record of all trials. file: the search.
        trial: id of the run's trial in the record. metric: the target's own score, for an oracle. label: of the run.
    """

    def __init__(
        self,
        observe: Callable[[str], Observer],
        journal: Path,
        file: SearchFile,
        trial: int,
        metric: Score,
        label: str,
    ) -> None:
        self._inner, self._file, self._metric = observe(label), file, metric
        self._trial: Any
        self._trial, self._total = None, 0
        if journal.is_file():  # a machine of a cluster may not see it: nothing is cut there
            optuna = search_package()
            # Opened by every process by itself: the journal is made for that.
            self._trial = optuna.trial.Trial(open_journal(journal, optuna, file), trial)

    def message(self, text: str) -> None:
        """Hand on."""
        self._inner.message(text)

    def begin(self, done: int, total: int) -> None:
        """Hand on, and keep where training ends."""
        self._total = total
        self._inner.begin(done, total)

    def step(self, report: StepReport, done: int) -> None:
        """Hand on."""
        self._inner.step(report, done)

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Hand on; an oracle alone looks at it."""
        self._inner.evaluated(scores, primary_metric, done)
        if self._file.objective == ORACLE:
            self._report(scores.score(self._metric), done)

    def selected(self, scores: Mapping[str, float], done: int) -> None:
        """Look at the score, and end the run if it is worse than the others' median.

        Raises:
            Pruned: then.
        """
        self._inner.selected(scores, done)
        if self._file.objective != ORACLE:
            self._report(scores.get(self._file.objective), done)

    def _report(self, score: float | None, done: int) -> None:
        if score is None or self._trial is None:
            return
        with warnings.catch_warnings():
            # A run that goes on from a checkpoint comes by the same step again.
            warnings.filterwarnings("ignore", "The reported value is ignored")
            self._trial.report(score, done)
        if done < self._total and self._trial.should_prune():  # of a whole run nothing is left to save
            raise Pruned(f"after {done} steps")

    def end(self) -> None:
        """Hand on."""
        self._inner.end()
