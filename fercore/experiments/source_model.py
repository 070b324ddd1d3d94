"""The source model of a run: source_only trained once on the same data, kept, and started from by every method.

Models are kept beside the folder that is written, in `source_models/`, under a name that follows from everything that
decides their weights. A folder in it is a run folder like any other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from fercore.config import DataSettings
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.experiments.cells import Cell, Entry, resolve, run_cell
from fercore.experiments.study_file import SOURCE_ROW
from fercore.files import sha256_of
from fercore.hooks.discovery import find_plugin, installed_plugins, load_class
from fercore.isolation import apart
from fercore.records.result import Result
from fercore.writing import make_parents, whole_folder, writing

if TYPE_CHECKING:
    from fercore.hooks.assemble import ResolvedRun
    from fercore.runs.folder import RunFolder

BASELINE, LABEL = SOURCE_ROW["method"], SOURCE_ROW["label"]
"""Row of a comparison or study that has the source model itself."""
FOLDER: Final = "source_models"
WHERE: Final = "--pretrain-source"
ARITHMETIC: Final = (
    "precision",
    "threads",
    "deterministic",
    "memory_format",
    "compile",
    "fused_optimiser",
    "allocator",
)
"""Settings of `train` that a source model shares with the methods; its length and its average are its own."""
DATA: Final = tuple(name for name in DataSettings.model_fields if name not in ("au", "au_threshold"))
"""Settings of the data that it shares: source_only reads no action units."""
SAME_BITS: Final[Mapping[str, tuple[str, ...]]] = {
    "data": ("workers", "cache_mb", "cache", "cache_dir", "cache_disk_mb", "max_bad_share"),
    "train": ("checkpoint_every", "keep_checkpoints", "log_every", "allocator"),
}
"""Settings that leave the weights as they are, so that models are shared by runs that differ in them."""


def source_layers(layers: Sequence[Mapping[str, Any]], steps: int) -> list[dict[str, Any]]:
    """Return the settings of the source model of runs with these: their data, network, seed and arithmetic.

    Optimiser, schedule and average are the preset's: what is tried out for a method trains no other source model.
    """
    own = []
    for layer in layers:
        kept = {key: layer[key] for key in ("data", "model", "seed", "device", "protocol") if key in layer}
        for section, wanted in (("train", ARITHMETIC), ("data", DATA)):
            table = layer.get(section)
            if isinstance(table, Mapping):
                kept[section] = {key: value for key, value in table.items() if key in wanted}
        # An empty table laid over another would empty it.
        own.append({key: value for key, value in kept.items() if not isinstance(value, Mapping) or value})
    return [*own, {"train": {"steps": steps}}]


def source_cell(layers: Sequence[Mapping[str, Any]], steps: int, preset: str, folder: Path, label: str) -> Cell:
    """Return the run that trains a source model; see `source_layers`."""
    return Cell(Entry(LABEL, (BASELINE,), {}), tuple(source_layers(layers, steps)), preset, folder, label)


def method_layers(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a method that starts from a source model is given beside it: the target alone, if that will do."""
    from fercore.hooks.checks import check_class

    available = installed_plugins()
    kinds = [check_class(load_class(find_plugin(name, available)), name) for name in names]
    return [] if any(kind.needs_source for kind in kinds) else [{"data": {"sources": []}}]


def refuse_source_model(steps: int, layers: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that a source model can be trained, before anything is.

    Raises:
        UserInputError: for no steps, another model to start from, or no source.
    """
    if steps < 1:
        raise UserInputError(f"{steps} steps", where=WHERE, fix="give at least 1, such as 1500")
    for layer in layers:
        network, data = layer.get("model", {}), layer.get("data", {})
        if isinstance(network, Mapping) and network.get("init"):
            fix = "leave out one of the two"
            raise UserInputError("--init names a model to start from", where=WHERE, fix=fix)
        if isinstance(data, Mapping) and "sources" in data and not data["sources"]:
            what, fix = "no source to train on", "give --source, or --init MODEL in place of it"
            raise UserInputError(what, where=WHERE, fix=fix)


def kept_at(cell: Cell, beside: Path) -> Path:
    """Return the folder that keeps the model of a cell, by what decides its weights.

    Args:
        beside: the folder that is written; models are kept next to it.
    """
    resolved = resolve(cell)
    config = resolved.config
    name = f"{config.model.backbone}-{config.train.steps}-s{config.seed}-{_digest(resolved)}"
    return beside.absolute().parent / FOLDER / name


def _digest(resolved: ResolvedRun) -> str:
    from fercore.runs.folder import versions

    settings = resolved.config.model_dump(mode="json", exclude={"report", "predict", "select", "stream", "preset"})
    for section, names in SAME_BITS.items():
        settings[section] = {key: value for key, value in settings[section].items() if key not in names}
    weights = Path(resolved.config.model.weights)
    content = sha256_of(weights) if weights.is_file() else ""
    facts = [settings, content, versions(), resolved.versions]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def train_source(cell: Cell, keep: Path, observe: Callable[[str], Observer]) -> Result:
    """Train a source model where it is kept, or go on with what is there; one process at a time, the others wait.

    Args:
        cell: of the model. keep: its folder, of `kept_at`. observe: makes what hears of it.

    Raises:
        UserInputError: as `run_cell`, and for a model that was trained on data that have changed since.
    """
    from fercore.runs.folder import RunFolder

    folder = RunFolder(keep)
    with writing(keep):
        make_parents(keep)
        lock = FileLock(keep.with_name(f"{keep.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            observe(cell.label).message(f"another process trains the source model {keep}: waiting for it")
            lock.acquire()
    try:
        if folder.finished:
            observe(cell.label).message(f"source model {keep} is there already")
            _check_data(cell, folder)
            return folder.result()
        result = run_cell(replace(cell, folder=keep), observe)
        # Nobody makes it longer under its name, and checkpoints are most of a run's bytes.
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        return result
    finally:
        lock.release()


def _check_data(cell: Cell, folder: RunFolder) -> None:
    """Refuse a model whose sources, or whose classes, are no longer those that the specs name."""
    from fercore.data import load_domains

    config = resolve(cell).config
    now, before = load_domains(config.task, config.data).fingerprint(), folder.data_report()["fingerprint"]
    if any(now.get(part) != before.get(part) for part in ("classes", "sources")):
        what, fix = "the sources changed since this source model was trained", "delete the folder to train it anew"
        raise UserInputError(what, where=str(folder.path), fix=fix)


def take_source(cell: Cell, out: Path, observe: Callable[[str], Observer]) -> Result:
    """Bring a source model into a cell's own folder, trained first where nobody has yet.

    Args:
        cell: its folder gets a copy. out: of the comparison or study; models are kept beside it.

    Raises:
        UserInputError: as `train_source`. WriteError: if it cannot be written.
    """
    from fercore.runs.folder import CONFIG, RunFolder

    if RunFolder(cell.folder).finished:
        return run_cell(cell, observe)
    keep = kept_at(cell, out)
    train_source(cell, keep, observe)
    make_parents(cell.folder)
    with whole_folder(cell.folder, CONFIG) as draft:
        shutil.copytree(keep, draft, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock"))
    return RunFolder(cell.folder).result()


def with_source_model(
    layers: Sequence[dict[str, Any]],
    names: Sequence[str],
    steps: int,
    *,
    preset: str,
    out: Path,
    observe: Callable[[str], Observer],
    train: bool = True,
) -> tuple[list[dict[str, Any]], str]:
    """Train the source model of one run, in a process of its own, and return the settings that start from it.

    Args:
        layers: of the run. names: its plugins. out: its folder. train: False = only look whether it is there.

    Returns:
        the layers, and a line on the model.

    Raises:
        UserInputError: as `train_source` and `refuse_source_model`.
    """
    from fercore.engine.initial import going_on_from
    from fercore.runs.folder import RunFolder

    refuse_source_model(steps, layers)
    cell = source_cell(layers, steps, preset, out, "source model")
    keep = kept_at(cell, out)
    if train:
        list(apart([(cell.label, partial(train_source, cell, keep, observe))], jobs=1))
    if not RunFolder(keep).finished:
        return list(layers), f"source model {keep}: not trained yet; a run would train it first, {steps} steps"
    score = RunFolder(keep).result().target
    text = "" if score.accuracy is None else f", target accuracy {score.accuracy:.4f} (n={score.n})"
    started = going_on_from([*layers, *method_layers(names)], keep)
    return started, f"source model {keep}: {steps} steps of {BASELINE}{text}"
