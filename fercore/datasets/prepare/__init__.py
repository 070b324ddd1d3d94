"""`fercore data prepare`: find the face in every image, align, cut out, resize, and write a manifest."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fercore.cluster import Machines, connected
from fercore.data.cache.files import FileBacked, stamps
from fercore.data.domains.domain_set import read_chosen
from fercore.data.domains.skipped import leftover_lines
from fercore.data.images.readers import Reader
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.datasets.prepare.boxes import read_boxes
from fercore.datasets.prepare.detectors import make_detector
from fercore.datasets.prepare.faces import CHOICES, Detector, Face
from fercore.datasets.prepare.journal import Journal
from fercore.datasets.prepare.one import PrepareSettings, prepare_one
from fercore.documents import CsvWriter
from fercore.errors import UserInputError, did_you_mean
from fercore.isolation import can_fork, share_out
from fercore.writing import make_parents, whole

__all__ = ["MANIFEST", "PrepareSettings", "prepare"]

MANIFEST = "manifest.csv"
"""Name of the table of faces in the folder; the dataset they are is `manifest` of it."""

COLUMNS = ("path", "label", "domain", "split", "subject", "sequence", "source", "left", "top", "right", "bottom",
           "score", *(f"{point}_{axis}" for point in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
                      for axis in "xy"))  # fmt: skip
SHARD = 256
"""Images that a machine of a cluster is given at a time."""
Progress = Callable[[int, int], None]
Job = tuple[int, str]
"""Row of the reader, path of the face without suffix."""


def prepare(
    spec: DomainSpec,
    out: Path,
    settings: PrepareSettings,
    *,
    workers: int = 0,
    machines: Machines | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Prepare a dataset's faces into a folder; called again on the same folder it goes on where it stopped.

    The folder gets images/<class>/<number>.<png|jpg>, manifest.csv (with source, box, score and landmarks),
    refused.csv (path, reason) and journal.jsonl.

    Args:
        spec: the dataset. out: new folder, or one of an interrupted preparation with these settings.
        workers: processes; 0 = here, in this one. machines: a cluster to do it in place of them, whose machines all
            see the dataset and the folder. progress: told images done and in all.

    Returns:
        {"images", "prepared", "refused", "reasons": {reason: n}, "resumed": images done before, "spec": of the result,
        "notes": what the dataset names and has not, in lines for people}

    Raises:
        UserInputError: for the spec, the folder, the detector or the boxes.
    """
    _check(settings)
    spec.refuse_inside(out)
    table, scan = read_chosen(spec)
    given = read_boxes(Path(settings.boxes), table.keys) if settings.boxes else None
    if given is None:
        make_detector(settings.detector, weights=_weights(settings), device=settings.device)
    # After the checks: a folder is made, and locked, only for a preparation that can run.
    journal = Journal(out, {"spec": spec.text, **settings.record()})
    try:
        places = [_place(table, i) for i in range(len(table))]
        marks = _marks(table, given)
        todo = [i for i in range(len(table)) if not _is_done(journal, out, table.keys[i], places[i], marks[i])]
        resumed = len(table) - len(todo)
        jobs = [(int(table.rows[i]), str(out / places[i])) for i in todo]
        faces = None if given is None else {int(table.rows[i]): given[i] for i in todo}
        if machines is None:
            results = _results(table.reader, jobs, settings, faces, workers)
        else:
            results = _from_cluster(spec, jobs, settings, faces, machines)
        for done, (k, record) in enumerate(results, start=1):
            i = todo[k]
            whole = {"place": places[i], "key": table.keys[i], "mark": marks[i], **record}
            # The record after its image: what the journal names is there.
            journal.write(whole)
            journal.done[places[i]] = whole
            if progress is not None:
                progress(resumed + done, len(table))
    finally:
        journal.close()
    return {**_write_tables(table, journal, out), "resumed": resumed, "notes": leftover_lines(scan)}


def _check(settings: PrepareSettings) -> None:
    for name, value, known in (
        ("--align", settings.align, ("five", "box")),
        ("--choose", settings.choose, CHOICES),
        ("--format", settings.image_format, ("png", "jpg")),
    ):
        if value not in known:
            raise UserInputError(f"unknown value {value!r}", where=name, fix=did_you_mean(value, known))
    if not 16 <= settings.size <= 4096:
        raise UserInputError(f"size {settings.size} is not from 16 to 4096", where="--size")
    if not 0 <= settings.min_score <= 1:
        raise UserInputError(f"score {settings.min_score} is not from 0 to 1", where="--min-score")
    if settings.device != "cpu" and not re.fullmatch(r"cuda(:[0-9]+)?", settings.device):
        raise UserInputError(f"unknown device {settings.device!r}", where="--device", fix="known: cpu, cuda")
    if not 0 <= settings.margin <= 2:
        raise UserInputError(f"margin {settings.margin} is not from 0 to 2", where="--margin")


def _weights(settings: PrepareSettings) -> Path | None:
    return Path(settings.weights) if settings.weights else None


def _place(table: Table, i: int) -> str:
    label = int(table.labels[i])
    return f"images/{CANONICAL[label] if label >= 0 else 'unlabelled'}/{i:0{max(5, len(str(len(table))))}d}"


def _marks(table: Table, given: list[list[Face]] | None) -> list[list[Any]]:
    """Return what the source of each sample is known to be unchanged by: its file and box, or its pixels, and the
    faces that were given for it.
    """
    reader, rows = table.reader, table.rows.tolist()
    if isinstance(reader, FileBacked):
        file_stamps = stamps(reader.paths[row] for row in rows)
        marks: list[list[Any]] = [
            [*(int(value) for value in stamp), reader.identity(row)]
            for stamp, row in zip(file_stamps, rows, strict=True)
        ]
    else:
        marks = [[reader.digest(row)] for row in rows]
    if given is not None:
        marks = [[*mark, _faces_mark(faces)] for mark, faces in zip(marks, given, strict=True)]
    return marks


def _faces_mark(faces: list[Face]) -> str:
    known = [(*face.box, face.score, None if face.landmarks is None else face.landmarks.tolist()) for face in faces]
    return hashlib.blake2b(repr(known).encode(), digest_size=8).hexdigest()


def _is_done(journal: Journal, out: Path, key: str, place: str, mark: list[Any]) -> bool:
    """Return whether the result at a place is that of this sample, as its source is now."""
    record = journal.done.get(place)
    if record is None or record["key"] != key or record["mark"] != mark:
        return False
    return "file" not in record or (out / place).with_name(record["file"]).is_file()


def _results(
    reader: Reader, jobs: list[Job], settings: PrepareSettings, given: dict[int, list[Face]] | None, workers: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of the job, record) as jobs are done."""
    _make_folders(jobs)
    if not jobs:
        return
    if workers < 2:
        _begin(reader, settings, given)
        for k, job in enumerate(jobs):
            yield k, _run(job)
        return
    # CUDA does not survive a fork.
    fork = can_fork() and settings.device == "cpu"
    yield from share_out(_run, jobs, workers, _begin, reader, settings, given, fork=fork)


def _make_folders(jobs: list[Job]) -> None:
    for place in {os.path.dirname(path): Path(path) for _, path in jobs}.values():
        make_parents(place)


def _from_cluster(
    spec: DomainSpec,
    jobs: list[Job],
    settings: PrepareSettings,
    given: dict[int, list[Face]] | None,
    machines: Machines,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of the job, record) as the machines of a cluster have done shards of them."""
    _make_folders(jobs)
    if not jobs:
        return
    starts = range(0, len(jobs), SHARD)
    calls = []
    for start in starts:
        own = [(row, os.path.abspath(path)) for row, path in jobs[start : start + SHARD]]
        faces = None if given is None else {row: given[row] for row, _ in own}
        calls.append((f"images {start} to {start + len(own)}", partial(prepare_shard, spec, own, settings, faces)))
    with connected(machines) as cluster:
        for number, answer in cluster.outcomes(calls, fresh=False):
            if isinstance(answer, Exception):
                raise answer
            yield from enumerate(answer, start=starts[number])


def prepare_shard(
    spec: DomainSpec, jobs: list[Job], settings: PrepareSettings, given: dict[int, list[Face]] | None
) -> list[dict[str, Any]]:
    """Prepare some images of a dataset on a machine of a cluster, and return their records."""
    if _STATE.get("spec") != spec:
        _STATE["spec"] = spec
        _begin(read_chosen(spec)[0].reader, settings, given)
    _STATE["given"] = given
    return [_run(job) for job in jobs]


_STATE: dict[str, Any] = {}


def _begin(reader: Reader, settings: PrepareSettings, given: dict[int, list[Face]] | None) -> None:
    detector: Detector | None = None
    if given is None:
        detector = make_detector(settings.detector, weights=_weights(settings), device=settings.device)
    _STATE.update(reader=reader, settings=settings, given=given, detector=detector)


def _run(job: Job) -> dict[str, Any]:
    row, path = job
    given = _STATE["given"]
    faces = None if given is None else given[row]
    return prepare_one(_STATE["reader"], row, Path(path), _STATE["settings"], _STATE["detector"], faces)


def _write_tables(table: Table, journal: Journal, out: Path) -> dict[str, Any]:
    """Write manifest.csv and refused.csv from the journal, in the dataset's order; return counts."""
    reasons: Counter[str] = Counter()
    prepared = 0
    with whole(out / MANIFEST, "w") as manifest, whole(out / "refused.csv", "w") as refused:
        keep, drop = CsvWriter(manifest), CsvWriter(refused)
        keep.writerow(COLUMNS)
        drop.writerow(("path", "reason"))
        for i, key in enumerate(table.keys):
            # In the dataset's order, whatever order workers finished in.
            record = journal.done[_place(table, i)]
            if "refused" in record:
                drop.writerow((key, record["refused"]))
                reasons[_kind(record["refused"])] += 1
            else:
                keep.writerow(_row(table, i, record))
                prepared += 1
    spec = DomainSpec.of("manifest", str(out / MANIFEST)).text
    refusals = dict(reasons.most_common())
    return {
        "images": len(table),
        "prepared": prepared,
        "refused": len(table) - prepared,
        "reasons": refusals,
        "spec": spec,
    }


def _row(table: Table, i: int, record: dict[str, Any]) -> list[Any]:
    label = int(table.labels[i])
    path = f"{Path(_place(table, i)).parent.as_posix()}/{record['file']}"
    points = [""] * 10 if record["landmarks"] is None else [value for point in record["landmarks"] for value in point]
    known = (table.name, table.split[i], table.subjects[i], table.sequences[i])
    return [
        path,
        CANONICAL[label] if label >= 0 else "",
        *known,
        table.keys[i],
        *record["box"],
        record["score"],
        *points,
    ]


def _kind(reason: str) -> str:
    """Return a reason without its numbers and names, to count by."""
    for start, kind in (
        ("unusable image: ", "unusable image"),
        ("face of ", "face too small"),
        ("no face surer", "no sure face"),
    ):
        if reason.startswith(start):
            return kind
    return reason
