"""A cell of a table of runs: a method on one target with one seed, checked, then run or resumed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fercore.config import merge, parse_assignment
from fercore.documents import without_none
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.hooks.discovery import split_names
from fercore.isolation import apart
from fercore.records.result import Result
from fercore.terminal import guard_streams

if TYPE_CHECKING:
    from fercore.hooks.assemble import ResolvedRun

LABELLED = re.compile(r"[^:=]*:")  # a label ends at the first colon, if no setting comes before it


@dataclass(frozen=True)
class Entry:
    """One row of a comparison.

    Attributes:
        label: name of the row. plugins: in command-line order. settings: laid over the shared ones.
    """

    label: str
    plugins: tuple[str, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of many.

    Attributes:
        entry: the row's plugins. layers: settings, later ones win. folder: where it is written. label: for messages.
        start: the run folder of a cell whose model it starts from; None = from its own settings.
    """

    entry: Entry
    layers: tuple[Mapping[str, Any], ...]
    preset: str
    folder: Path
    label: str
    start: Path | None = None


def parse_entry(text: str) -> Entry:
    """Read "[LABEL:]plugin[+plugin...] [key=value ...]".

    Raises:
        UserInputError: if no plugin is named or an assignment cannot be read.
    """
    label, colon, rest = text.partition(":") if LABELLED.match(text) else ("", "", text)
    words = rest.split()
    if not words:
        raise UserInputError("empty method", where="compare", fix='write "label:plugin key=value ..."')
    names = words[0]
    settings: dict[str, Any] = {}
    for word in words[1:]:
        settings = merge(settings, parse_assignment(word))
    return Entry(label.strip() if colon else " ".join(words), split_names(names), settings)


def run_cells(cells: Sequence[Cell], observe: Callable[[str], Observer], jobs: int) -> Iterator[Result]:
    """Check the cells before the first is trained, then run them; none in this process, no two in the same."""
    check_cells(cells, jobs)
    yield from apart([(cell.label, partial(run_cell, cell, observe)) for cell in cells], jobs=jobs)


def check_cells(cells: Sequence[Cell], jobs: int, *, scored: bool = False) -> None:
    """Look at every cell that is there already, and build the first new one of each row, whose seeds differ in numbers.

    What starts from a cell that is not trained yet cannot be built; its settings alone are looked at.

    Args:
        jobs: cells at a time. scored: whether a test part without labels is refused.

    Raises:
        UserInputError: as `check_cell`, for the first that is wrong.
    """
    from fercore.runs.folder import RunFolder

    there = [RunFolder(cell.folder).begun for cell in cells]
    new = {
        (cell.folder.parent, cell.entry.label): cell
        for cell, begun in zip(cells[::-1], there[::-1], strict=True)
        if not begun
    }

    def ready(cell: Cell) -> bool:
        return cell.start is None or RunFolder(cell.start).finished

    checks = [
        (cell.label, partial(check_cell, cell, build=not begun and ready(cell), scored=scored))
        for cell, begun in zip(cells, there, strict=True)
        if begun or new[cell.folder.parent, cell.entry.label] is cell
    ]
    list(apart(checks, jobs=jobs))


def check_cell(cell: Cell, *, build: bool, scored: bool) -> None:
    """Resolve a cell's settings and, if asked, build all that its run needs: data, network, batches.

    Raises:
        UserInputError: for a folder that holds another run, for whatever the run would end in before its first step,
            and if asked for a test part without labels.
    """
    from fercore.engine.setup import build_context

    guard_streams()  # of a process of its own
    with _named(cell):
        resolved = _resolved(cell)
        if not build:
            return
        context = build_context(resolved)
        context.check_batches()
        if scored and not context.domains.report["target"]["labelled_test"]:
            what = "the target's test part has no label, so there is no score for the table"
            fix = "label some of its images, or leave the pair out; `fercore compare` judges without labels"
            raise UserInputError(what, where="data.target", fix=fix)


def refuse_other_data(cells: Sequence[Cell]) -> None:
    """Make sure that runs of one seed that name the same data had it: one that `out` held may be from before a change.

    Raises:
        UserInputError: naming two runs that did not.
    """
    from fercore.runs.folder import RunFolder

    first: dict[str, tuple[Cell, Any]] = {}
    for cell in cells:
        folder = RunFolder(cell.folder)
        settings, data = folder.config_layers(), folder.data_report()["fingerprint"]
        named = [settings["seed"], *(settings["data"].get(key) for key in ("sources", "target", "classes"))]
        other, before = first.setdefault(repr(named), (cell, data))
        if any(data.get(part) != before.get(part) for part in ("sources", "test")):
            what = f"{cell.label} had other data than {other.label}: it changed between the two"
            fix = "delete the folder of the one that had the wrong data, and give the command again"
            raise UserInputError(what, where=f"{cell.folder}, {other.folder}", fix=fix)


def resolve(cell: Cell) -> ResolvedRun:
    """Return a cell's settings and plugins, whatever its folder holds."""
    from fercore.engine.initial import going_on_from
    from fercore.engine.setup import resolve_here
    from fercore.hooks.assemble import assemble
    from fercore.runs.folder import RunFolder

    layers = [dict(layer) for layer in cell.layers]
    # A cell is checked before the one that it starts from is trained: only its own settings can be looked at by then.
    if cell.start is not None and RunFolder(cell.start).finished:
        layers = going_on_from(layers, cell.start)
    return resolve_here(assemble(cell.entry.plugins, layers, preset=cell.preset))


def _resolved(cell: Cell) -> ResolvedRun:
    """Return a cell's settings and plugins as its folder has them, refusing one that holds another run."""
    from fercore.engine.memory_format import as_recorded
    from fercore.engine.resume import changes_text, check_resume, differences
    from fercore.runs.folder import CONFIG, RunFolder

    resolved = resolve(cell)
    if (cell.folder / CONFIG).is_file():
        folder = RunFolder(cell.folder)
        recorded = folder.config_layers()
        resolved = as_recorded(resolved, recorded)
        wanted = without_none(resolved.config.model_dump(mode="json"))
        changed = differences(recorded, wanted)
        if changed:
            what = f"folder holds a run with other settings: {changes_text(changed)}"
            raise UserInputError(what, where=str(cell.folder), fix="choose another --out")
        check_resume(folder, resolved)
        if not folder.finished:
            folder.refuse_in_use()
    return resolved


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Say which row and seed the user's mistake belongs to."""
    try:
        yield
    except UserInputError as error:
        raise UserInputError(f"{cell.label}: {error.what}", where=error.where, fix=error.fix) from error


def run_cell(cell: Cell, observe: Callable[[str], Observer]) -> Result:
    """Train a cell, or go on with what its folder holds, and return the result.

    Args:
        observe: makes what hears of it from its label.

    Raises:
        UserInputError: as `check_cell`.
    """
    from fercore.engine.run import run
    from fercore.engine.setup import build_context
    from fercore.runs.folder import CONFIG, RunFolder

    guard_streams()  # of a process of its own
    with _named(cell):
        resolved = _resolved(cell)
        folder = RunFolder(cell.folder)
        resume = (cell.folder / CONFIG).is_file()
        if resume and folder.finished:
            return folder.result()
        context = build_context(resolved, label_file=folder.label_file if resume else None)
        return run(context, cell.folder, observe(cell.label), resume=resume)


def folder_of(out: Path, label: str, seed: int) -> Path:
    """Return the run folder of a row and seed in the folder of a comparison."""
    return out / f"{slug(label)}-s{seed}"


def slug(label: str) -> str:
    """Return a label as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-") or "row"
