"""`nvie`: USTC-NVIE by manifest: path,label,domain,split,subject,sequence,time; `domain` is visible or thermal.

The database's own folders are not fixed, so the user lists the frames; see `formats/manifest.py` for paths and `root=`.
`spectrum=visible` (the default), `thermal` or `all`. `paired=true` keeps frames that have a frame of the other spectrum
in the same sequence: the nearest in time where both have a `time` (a number), else at the same place in the sequence.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from fercore.data.formats.manifest import add_row
from fercore.data.formats.reading.codes import Labels, labels_of
from fercore.data.formats.reading.columns import MANIFEST
from fercore.data.formats.reading.listing import listing
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty
from fercore.data.formats.reading.tables import csv_rows
from fercore.data.images.readers import FileReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

SPECTRA = {
    "visible": "visible", "vis": "visible", "rgb": "visible",
    "thermal": "thermal", "ir": "thermal", "infrared": "thermal", "lwir": "thermal",
}  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One row: spectrum, sequence, time (None = not given), and the row itself with its place in the file."""

    spectrum: str
    sequence: str
    time: float | None
    row: dict[str, str]
    where: str


def scan(spec: DomainSpec) -> Scan:
    """Read NVIE by manifest.

    Raises:
        UserInputError: for a missing file or column, a row (by line) whose domain is no spectrum, or whose time is no
            number.
    """
    path = existing(spec.path, folder=False, where=spec.where)
    files = listing(spec, path.parent)
    wanted = spec.choice("spectrum", ("visible", "thermal", "all"), "visible")
    rows, labels = Rows(), labels_of(spec)
    lines = csv_rows(path, ["path", "label", "domain"], (*MANIFEST, "time"), rows)
    frames = [_frame(row, f"{path}, line {number}") for number, row in lines]
    # Paired before the spectrum is chosen: a frame's partner is of the other one.
    partners = {i for pair in pairs(frames, labels) for i in pair} if spec.flag("paired") else set(range(len(frames)))
    for i, frame in enumerate(frames):
        if wanted not in ("all", frame.spectrum):
            rows.skipped[f"spectrum {frame.spectrum}"] += 1
        elif i not in partners:
            rows.skipped["frame without a partner"] += 1
        else:
            add_row(rows, frame.row, files, labels, where=frame.where)
    rows.by_end = files.by_end()
    labels.refuse_guess(rows, str(path))
    not_empty(rows, str(path), f"write rows {','.join(MANIFEST)},time; see ?spectrum=")
    return Scan(rows, FileReader(tuple(rows.keys)))


def pairs(frames: list[Frame], labels: Labels) -> list[tuple[int, int]]:
    """Return (visible, thermal) positions of frames of one sequence that belong together, each used once."""
    sequences: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, frame in enumerate(frames):
        # Counted into rows that nobody keeps: `add_row` counts the same labels again.
        label = labels.find(frame.row["label"], Rows())
        if frame.sequence and label is not None and label >= 0:
            sequences[frame.sequence][frame.spectrum].append(i)
    return [pair for sides in sequences.values() for pair in _match(frames, sides["visible"], sides["thermal"])]


def _match(frames: list[Frame], visible: list[int], thermal: list[int]) -> list[tuple[int, int]]:
    if any(frames[i].time is None for i in (*visible, *thermal)):
        return list(zip(visible, thermal, strict=False))
    every = [(abs(float(frames[v].time or 0) - float(frames[t].time or 0)), v, t) for v in visible for t in thermal]
    used: set[int] = set()
    result = []
    # Greedy by distance in time; equal distances go by place, so that the result does not depend on the run.
    for _, v, t in sorted(every):
        if v not in used and t not in used:
            used |= {v, t}
            result.append((v, t))
    return result


def _frame(row: dict[str, str], where: str) -> Frame:
    spectrum = SPECTRA.get(row["domain"].lower())
    if spectrum is None:
        raise UserInputError(f"domain {row['domain']!r} is no spectrum", where=where, fix="write visible or thermal")
    text = row.get("time", "")
    try:
        time = float(text) if text else None
    except ValueError:
        raise UserInputError(f"time {text!r} is no number", where=where) from None
    return Frame(spectrum, row.get("sequence", ""), time, row, where)
