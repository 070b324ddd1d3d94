"""A study: methods on pairs of domains over seeds, one run folder a cell; it can be stopped, extended and run again."""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fercore.arguments import request_of
from fercore.documents import parse_json
from fercore.engine.observer import Observer
from fercore.errors import UserInputError, did_you_mean, reason_of
from fercore.experiments.cells import Cell, Entry, check_cells, folder_of, refuse_other_data, run_cell, slug
from fercore.experiments.executors import CellCall, Executor, LocalExecutor, silent
from fercore.experiments.failures import note_failure, read_failures
from fercore.experiments.frames import CellRecord, write_frame
from fercore.experiments.source_model import LABEL, method_layers, source_cell, take_source
from fercore.experiments.study_file import Pair, StudyFile, check_study, read_study
from fercore.files import absolute, read_text
from fercore.hooks.discovery import check_early, split_names
from fercore.records.result import Result
from fercore.runs.folder import RunFolder
from fercore.stopping import Interrupted, number_of
from fercore.writing import make_parents, write_json

STUDY, FRAME, TRIAL_FOLDERS = "study.json", "study.parquet", "trials"
State: TypeAlias = Literal["finished", "begun", "failed", "missing"]


@dataclass(frozen=True)
class StudyCell:
    """A cell and its place in the study."""

    method: str
    pair: str
    seed: int
    cell: Cell


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        states: (method, pair, seed) -> state. reasons: of the failed ones. seconds_left: of training, None = unknown.
    """

    states: dict[tuple[str, str, int], State]
    reasons: dict[tuple[str, str, int], str]
    seconds_left: float | None

    def count(self, state: State) -> int:
        """Return how many cells are in a state."""
        return sum(one == state for one in self.states.values())

    @property
    def complete(self) -> bool:
        """Whether every cell is finished."""
        return self.count("finished") == len(self.states)


class Study:
    """Methods x pairs x seeds.

    Args:
        study: path of a TOML file, name of a study that comes with fercore, or the keys of one.
        out: its folder; one that holds a study goes on. scale: of the study, such as "small".
        data_root: folder that holds the datasets of protocols; None = as the study says.
        pairs, methods: names of those that are wanted; none = all. The reference always stays.

    Raises:
        UserInputError: for settings, specs or plugins that are wrong, before anything is trained.
    """

    def __init__(
        self,
        study: str | os.PathLike[str] | Mapping[str, Any],
        out: str | os.PathLike[str],
        *,
        scale: str | None = None,
        data_root: str | os.PathLike[str] | None = None,
        pairs: Sequence[str] = (),
        methods: Sequence[str] = (),
    ) -> None:
        file = (
            check_study(study, "", "study") if isinstance(study, Mapping) else read_study(os.fspath(study), scale=scale)
        )
        if data_root is not None:
            file = file.model_copy(update={"data_root": absolute(os.fspath(data_root))})
        self.file, self.out = narrowed(file, pairs=pairs, methods=methods), Path(out)
        for row in self.file.methods:
            for pair, (layers, preset) in self._requests.items():
                check_early(split_names(row.method), [*layers, row.settings], preset=preset, row=f"{row.name}, {pair}")

    @classmethod
    def read(cls, out: Path) -> Study:
        """Return the study in a folder.

        Raises:
            UserInputError: if there is none, or its record is damaged.
        """
        path, fix = out / STUDY, "give the command of the study again"
        try:
            values = parse_json(read_text(path), where=str(path))
        except FileNotFoundError:
            what = "no study in this folder"
            raise UserInputError(what, where=str(out), fix="give the folder that fercore study wrote") from None
        except UserInputError:
            raise
        except (OSError, ValueError) as error:
            raise UserInputError(f"cannot read {STUDY}: {reason_of(error)}", where=str(path), fix=fix) from None
        return cls(values, out)

    @cached_property
    def _requests(self) -> dict[str, tuple[list[dict[str, Any]], str]]:
        """Pair -> layers of settings and preset."""
        return {pair.name: self._request(pair) for pair in self.file.pairs}

    def _request(self, pair: Pair) -> tuple[list[dict[str, Any]], str]:
        root = None if self.file.data_root is None else Path(self.file.data_root)
        root = root if pair.protocol else None
        try:
            request = request_of(
                source=pair.source,
                target=pair.target,
                protocol=pair.protocol,
                data_root=root,
                preset=self.file.preset,
            )
        except UserInputError as error:
            raise UserInputError(f"pair {pair.name}: {error.what}", where=error.where, fix=error.fix) from None
        return [*request.layers, self.file.settings, pair.settings], request.preset

    @cached_property
    def cells(self) -> list[StudyCell]:
        """Every cell, pair by pair and seed by seed, those that others start from before them."""
        # Of a search, what its row starts from; the row itself is run by the trials.
        rows = self.file.methods if self.file.search is None else self.file.lineage(self.file.searched)[:-1]
        order = sorted(rows, key=lambda row: self._depth(row.name))
        return [
            self.cell(row.name, pair.name, seed)
            for pair in self.file.pairs
            for seed in self.file.seeds
            for row in order
        ]

    def _depth(self, label: str) -> int:
        start = self.file.method(label).start
        return 0 if start is None else 1 + self._depth(start)

    def cell(
        self, label: str, pair: str, seed: int, *, over: Sequence[Mapping[str, Any]] = (), trial: int | None = None
    ) -> StudyCell:
        """Return a cell.

        Args:
            over: settings laid over the row's. trial: number of the search's trial that it is of.
        """
        row = self.file.method(label)
        layers, preset = self._requests[pair]
        root = self.out if trial is None else self.out / TRIAL_FOLDERS / f"{trial:04}"
        place, names = folder_of(root / slug(pair), label, seed), split_names(row.method)
        name = f"{'' if trial is None else f'trial {trial}: '}{pair}, {label}, seed {seed}"
        if self._is_source(label):
            assert self.file.pretrain_source is not None
            cell = source_cell([*layers, {"seed": seed}], self.file.pretrain_source, preset, place, name)
            return StudyCell(label, pair, seed, cell)
        beside = method_layers(names) if row.start is not None and self._is_source(row.start) else []
        start = None if row.start is None else folder_of(self.out / slug(pair), row.start, seed)
        own = (*layers, *beside, row.settings, *over, {"seed": seed})
        cell = Cell(Entry(label, tuple(names), row.settings), own, preset, place, name, start)
        return StudyCell(label, pair, seed, cell)

    def _is_source(self, label: str) -> bool:
        """Say whether a row is the source model of `pretrain_source`."""
        return self.file.pretrain_source is not None and label == LABEL

    def run(
        self,
        *,
        jobs: int = 1,
        executor: Executor | None = None,
        observe: Callable[[str], Observer] = silent,
        only: str | None = None,
    ) -> Status:
        """Train what is not finished yet, and return how far the study is; a cell that fails ends no other.

        Of a study with a [search] this is what its row starts from; see `fercore.Search`.

        Args:
            jobs: cells at a time. executor: runs them; None = processes of this machine.
            observe: makes what hears of a run from its label; importable.
            only: label of one cell, "PAIR, METHOD, seed N"; the study's own file is left as it is.

        Raises:
            UserInputError: before anything is trained, for a cell whose settings are wrong, whose folder holds a run
                with others, or whose target has no labels to score; for an unknown cell.
            Interrupted: for a signal; says how to go on.
        """
        cells = self.checked(jobs=jobs, only=only)
        if only is None:
            self.write_file()
        try:
            self._run_levels(
                [cell for cell in cells if not RunFolder(cell.cell.folder).finished],
                executor or LocalExecutor(jobs),
                observe,
            )
        except KeyboardInterrupt as stop:
            again = f"the same command with --out {shlex.quote(str(self.out))} goes on"
            raise Interrupted(number_of(stop), f"interrupted; {again}") from None
        for pair in self.file.pairs:
            done = [cell.cell for cell in self.cells if cell.pair == pair.name and RunFolder(cell.cell.folder).finished]
            refuse_other_data(done)
        return self.status()

    def checked(self, *, jobs: int = 1, only: str | None = None) -> list[StudyCell]:
        """Return the cells, or one of them, after a look at all that can be seen before anything is trained.

        Raises:
            UserInputError: as `run`.
        """
        if len({cell.cell.folder for cell in self.cells}) < len(self.cells):
            what = "two methods or pairs have names that come to one folder"
            raise UserInputError(what, where=str(self.out), fix="give them labels that differ in letters or digits")
        labels = [cell.cell.label for cell in self.cells]
        if only is not None and only not in labels:
            raise UserInputError(f"unknown cell {only!r}", where="--cell", fix=did_you_mean(only, labels))
        cells = [cell for cell in self.cells if only in (None, cell.cell.label)]
        check_cells([cell.cell for cell in cells], jobs, scored=True)
        return cells

    def levels(self, cells: Sequence[StudyCell]) -> list[list[StudyCell]]:
        """Return cells level by level: what others start from is there before they begin."""
        depths = sorted({self._depth(cell.method) for cell in cells})
        return [[cell for cell in cells if self._depth(cell.method) == depth] for depth in depths]

    def _run_levels(self, waiting: Sequence[StudyCell], executor: Executor, observe: Callable[[str], Observer]) -> None:
        for level in self.levels(waiting):
            ready = []
            for cell in level:
                if cell.cell.start is None or RunFolder(cell.cell.start).finished:
                    ready.append(cell)
                else:
                    start = self.file.method(cell.method).start
                    note_failure(self.out, cell.cell.label, f"{start}, which it starts from, failed")
            for cell, answer in self._run(ready, executor, observe):
                reason = None
                if isinstance(answer, Exception):
                    # The error names the cell too, for it may come alone.
                    reason = _reason(answer).removeprefix(f"{cell.cell.label}: ")
                    observe("study").message(f"failed: {cell.cell.label}: {reason}")
                note_failure(self.out, cell.cell.label, reason)

    def _run(
        self, cells: Sequence[StudyCell], executor: Executor, observe: Callable[[str], Observer]
    ) -> Iterator[tuple[StudyCell, Result | Exception]]:
        watching = executor.observing(observe)
        calls = [
            CellCall(
                cell.cell.label,
                partial(take_source, cell.cell, self.out, watching)
                if self._is_source(cell.method)
                else partial(run_cell, cell.cell, watching),
                cell.cell.folder,
                cell.cell.start,
            )
            for cell in cells
        ]
        for number, answer in executor.run(calls):
            yield cells[number], answer

    def write_file(self) -> None:
        """Keep the study's keys in its folder, from which `read` knows it."""
        make_parents(self.out / STUDY)
        write_json(self.out / STUDY, self.file.model_dump(mode="json", by_alias=True, exclude_none=True))

    def results(self) -> dict[tuple[str, str, int], Result]:
        """Return (method, pair, seed) -> result of every finished cell."""
        results = {}
        for cell in self.cells:
            folder = RunFolder(cell.cell.folder)
            if folder.finished:
                results[cell.method, cell.pair, cell.seed] = folder.result()
        return results

    def records(self) -> list[CellRecord]:
        """Return a record a cell, as study.parquet has them."""
        status, results = self.status(), self.results()
        records = []
        for cell in self.cells:
            key = cell.method, cell.pair, cell.seed
            plugins, folder = "+".join(cell.cell.entry.plugins), str(cell.cell.folder)
            record = CellRecord(*key, status.states[key], status.reasons.get(key, ""), plugins, folder)
            records.append(record.with_result(results[key]) if key in results else record)
        return records

    def write_frame(self) -> Path:
        """Write study.parquet, a row a cell, and return its path.

        Raises:
            UserInputError: if pyarrow is not installed. WriteError: if it cannot be written.
        """
        write_frame(self.out / FRAME, [asdict(record) for record in self.records()])
        return self.out / FRAME

    def folder(self, method: str, pair: str, seed: int) -> Path:
        """Return the run folder of a cell."""
        return self.cell(method, pair, seed).cell.folder

    def status(self, *, jobs: int = 1) -> Status:
        """Return how far the study is, with the time that the rest takes at the pace of what is done.

        Args:
            jobs: cells at a time.
        """
        failed, results = read_failures(self.out), self.results()
        states: dict[tuple[str, str, int], State] = {}
        reasons = {}
        for cell in self.cells:
            key = cell.method, cell.pair, cell.seed
            folder = RunFolder(cell.cell.folder)
            if key in results:
                states[key] = "finished"
            elif cell.cell.label in failed:
                states[key], reasons[key] = "failed", failed[cell.cell.label]
            else:
                states[key] = "begun" if folder.begun else "missing"
        left = [key for key, state in states.items() if state != "finished"]
        return Status(states, reasons, _seconds_left(results, left, jobs))


def _seconds_left(
    results: dict[tuple[str, str, int], Result], left: Sequence[tuple[str, str, int]], jobs: int
) -> float | None:
    """Return seconds of training left: of each cell its row's median, else that of all; None = nothing is done yet."""
    if not results:
        return None if left else 0.0
    rows: dict[str, list[float]] = {}
    for (method, _, _), result in results.items():
        rows.setdefault(method, []).append(result.train_seconds)
    everything = statistics.median(value for values in rows.values() for value in values)
    paces = [statistics.median(rows[method]) if method in rows else everything for method, _, _ in left]
    return sum(paces) / jobs


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserInputError) else f"{type(error).__name__}: {error}"


def narrowed(file: StudyFile, *, pairs: Sequence[str] = (), methods: Sequence[str] = ()) -> StudyFile:
    """Return a study of some of its pairs and methods; the reference, and what a method starts from, always stay.

    Raises:
        UserInputError: for an unknown name.
    """
    for option, names, known in (
        ("--pair", pairs, [pair.name for pair in file.pairs]),
        ("--method", methods, [row.name for row in file.methods]),
    ):
        if unknown := next((name for name in names if name not in known), None):
            raise UserInputError(f"no {option[2:]} {unknown!r}", where=option, fix=did_you_mean(unknown, known))
    kept = {file.reference_label, *methods}
    for name in list(kept):
        while (start := file.method(name).start) is not None:
            kept.add(name := start)
    changes: dict[str, Any] = {}
    if pairs:
        changes["pairs"] = tuple(pair for pair in file.pairs if pair.name in pairs)
    if methods:
        changes["methods"] = tuple(row for row in file.methods if row.name in kept)
    return file.model_copy(update=changes)
