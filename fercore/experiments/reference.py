"""The reference of a run: source_only with the same data, sampling and steps, trained beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fercore.config import RunConfig
from fercore.documents import without_none
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.experiments.cells import Cell, Entry, run_cell
from fercore.isolation import apart

BASELINE = "source_only"


def reference_of(folder: Path) -> Path:
    """Return the folder beside a run's where its reference is trained."""
    return folder.absolute().with_name(f"{folder.absolute().name}-reference")


def refuse_reference(names: Sequence[str], layers: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that a reference can be trained beside a run, before anything is.

    Raises:
        UserInputError: if the run is source_only itself, or names a reference that is there.
    """
    where = "--with-reference"
    if list(names) == [BASELINE]:
        raise UserInputError("the run is the reference itself", where=where, fix="name a method that adapts")
    named = [layer["report"].get("reference") for layer in layers if isinstance(layer.get("report"), Mapping)]
    if any(named):
        what = "report.reference names one that is there"
        raise UserInputError(what, where=where, fix="leave out one of the two")


def train_reference(
    config: RunConfig, layers: Sequence[Mapping[str, Any]], steps: int, folder: Path, observe: Callable[[str], Observer]
) -> None:
    """Train source_only as a row of a comparison is, in a process of its own; go on with what the folder holds.

    Args:
        config: the run's settings: the data and their sampling are taken from them. layers: what was asked for beside
            the presets. steps: of all stages of the run. observe: makes what hears of it; importable.

    Raises:
        UserInputError: if there is no source, or the folder holds another run.
    """
    if not config.data.sources:
        what = "no source: there is nothing that source_only could be trained on"
        raise UserInputError(what, where="--with-reference", fix="leave it out")
    # What is asked of other plugins means nothing here; presets of the method stay with the method.
    own = [{key: value for key, value in layer.items() if key in RunConfig.model_fields} for layer in layers]
    same = {"data": without_none(config.data.model_dump(mode="json")), "train": {"steps": steps}, "seed": config.seed}
    cell = Cell(Entry(BASELINE, (BASELINE,), {}), (*own, same), config.preset, folder, f"{BASELINE}, the reference")
    list(apart([(cell.label, partial(run_cell, cell, observe))], jobs=1))
