"""Predicting on the machines of a Ray cluster: the inputs in shards, each an ordinary table, joined in order."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fercore.cluster import Machines, connected
from fercore.config import Device
from fercore.documents import parse_json
from fercore.errors import UserInputError, reason_of
from fercore.files import read_text
from fercore.prediction.inputs import shards_of
from fercore.prediction.predict import PredictSettings, Progress, predict
from fercore.prediction.predictor import Predictor, load_predictor
from fercore.prediction.summary import Summary
from fercore.prediction.tables import TableWriter, check_out, finished_rows, layout_of
from fercore.stopping import Interrupted, number_of
from fercore.writing import make_parents, write_json

SHARD: Final = 7680
"""Inputs of a shard, of which the usual batches are parts: a shard's batches are those of one process."""
ABOUT: Final = ("schema", "model", "settings", "versions")
"""What the record beside a table says of all of it."""
ROWS: Final = 1000
"""Rows that are written at once."""


@dataclass(frozen=True)
class Work:
    """What every shard is predicted with.

    Attributes:
        model: a run folder, or a `model/`. device: as for `load`. settings: as for `predict`.
    """

    model: str
    device: Device
    settings: PredictSettings


def predict_in_shards(
    work: Work,
    inputs: Sequence[str],
    out: Path,
    machines: Machines,
    *,
    shard: int = SHARD,
    resume: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Predict on inputs by the machines of a cluster, and write the table that one process would.

    All machines see the model, the inputs and the folder of `out`: shards are kept in OUT.shards/ until all are done.

    Args:
        work: model and settings. inputs: as for `predict`; a SPEC or a video is in one shard. out: the new table.
        machines: the cluster. shard: inputs a shard. resume: go on with an interrupted one.
        progress: told inputs done and in all.

    Raises:
        UserInputError: as `predict`; for a table of faces, which belongs to all inputs at once. Other shards stay.
        Interrupted: for a signal; says how to go on.
    """
    if work.settings.faces not in (None, "whole", "detect"):
        fix = "leave out --executor ray, or give --faces detect"
        raise UserInputError("a table of faces goes with one process", where="--faces", fix=fix)
    work = replace(work, settings=replace(work.settings, faces=work.settings.faces or "whole"))
    check_out(out, resume=resume)
    shards = list(shards_of(inputs, stride=work.settings.stride, size=shard))
    parts = _parts(out, shards, resume=resume)
    total, done = sum(map(len, shards)), 0
    left = []
    for part, names in zip(parts, shards, strict=True):
        if _finished(part):
            done += len(names)
        else:
            left.append((part, names))
    if progress is not None:
        progress(done, total)
    calls = ((part.name, partial(predict_shard, work, names, part)) for part, names in left)
    try:
        with connected(machines) as cluster:
            for number, answer in cluster.outcomes(calls, fresh=False):
                if isinstance(answer, Exception):
                    raise answer
                done += len(left[number][1])
                if progress is not None:
                    progress(done, total)
    except KeyboardInterrupt as stop:
        text = f"interrupted; shards that are done are kept beside {shlex.quote(str(out))}: add --resume to go on"
        raise Interrupted(number_of(stop), text) from None
    summary = _join(parts, out, work.settings.columns)
    shutil.rmtree(parts[0].parent)
    return summary


def _parts(out: Path, shards: Sequence[Sequence[str]], *, resume: bool) -> list[Path]:
    """Return where the shards' tables are, in a folder that is of these shards.

    Raises:
        UserInputError: if it is of others, or not to be gone on with.
    """
    folder = out.with_name(f"{out.name}.shards")
    record = {"shards": len(shards), "sha256": hashlib.sha256(repr(shards).encode("utf-8", "replace")).hexdigest()}
    about = folder / "shards.json"
    if about.is_file():
        if not resume:
            what, fix = "shards of an interrupted table are there", "add --resume, or delete the folder"
            raise UserInputError(what, where=str(folder), fix=fix)
        if _read(about) != record:
            what, fix = "the shards there are of other inputs", "give the inputs and --shard of the first time"
            raise UserInputError(what, where=str(folder), fix=fix)
    else:
        if out.exists():
            raise UserInputError("that table is finished", where=str(out), fix="choose another --out")
        make_parents(about)
        write_json(about, record)
    return [folder / f"{number:06}{out.suffix}" for number in range(len(shards))]


def _read(path: Path) -> Any:
    try:
        return parse_json(read_text(path), where=str(path))
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot be read: {reason_of(error)}", where=str(path), fix="delete the folder") from None


def _record_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _finished(part: Path) -> bool:
    return _record_of(part).is_file() and bool(_read(_record_of(part)).get("finished"))


@cache
def _predictor(model: str, device: Device) -> Predictor:
    """Return a model, loaded once by a process for all its shards."""
    return load_predictor(model, device=device)


def predict_shard(work: Work, names: Sequence[str], part: Path) -> None:
    """Predict one shard into a table of its own, or go on with it."""
    predictor = _predictor(work.model, work.device)
    predict(predictor, names, out=part, settings=work.settings, resume=_record_of(part).is_file())


def _join(parts: Sequence[Path], out: Path, columns: str) -> Summary:
    """Write the rows of all shards as one table, and return what they come to."""
    about = {key: value for key, value in _read(_record_of(parts[0])).items() if key in ABOUT}
    summary = Summary(about["model"]["classes"])
    layout = layout_of(columns, summary.classes)
    out.unlink(missing_ok=True)  # of a join that was interrupted
    table = TableWriter(out, layout)
    try:
        for part in parts:
            rows = finished_rows(part, layout)
            while held := list(islice(rows, ROWS)):
                for row in held:
                    summary.add(row)
                table.write(held)
    finally:
        table.close()
    write_json(_record_of(out), {**about, "finished": True, **summary.to_json()})
    table.drop_lines()
    return summary
