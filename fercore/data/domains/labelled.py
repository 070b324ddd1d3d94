"""One dataset divided into labelled and unlabelled samples, and the file that keeps the division.

labels=100                of a source's training part so many samples are labelled; the rest is the unlabelled target
label_rule=equal_floor    how they are shared out over the classes; see `fercore.data.domains.options`
shots=5                   so many samples of each class of a target's training part are labelled: the last source domain
fraction=0.1              this share of each class of it is, to the nearest sample, and at least one
label_by=subject          nobody is on both sides: further images of a labelled subject are left out; or "image".
                          Left out, it is "subject" for `labels` where every subject is known, and else "image"
include_labelled=true     the labelled images are among the unlabelled ones too, without their labels
label_file=FILE           in place of a number: the division as a run folder's labelled.json keeps it

The test part never holds a labelled sample. With `shots` and `fraction` it shows no subject of one either, nor, where
subjects are unknown, another frame of its sequence: samples whose subject or sequence is in it, as parts that a dataset
comes with may have it, are not labelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from fercore.data.domains.label_draw import draw_labels
from fercore.data.domains.sealed import read_sealed, sealed
from fercore.data.fingerprint import common_folder
from fercore.data.formats.reading.scan import user_path
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.documents import Shape
from fercore.errors import UserInputError
from fercore.records.data import LabelSplitReport

KIND = "fercore labelled split"
LABELLED, UNLABELLED, LEFT_OUT = PARTS = ("labelled", "unlabelled", "left out")


def _sample(row: list[str]) -> list[str]:
    if row[:1] not in ([part] for part in PARTS) or len(row) != 2 + (row[0] == LABELLED):
        raise ValueError(f"should be part, hash and, if {LABELLED!r}, label")
    return row


class _Counts(Shape):
    labelled: int
    unlabelled: int
    skipped: int = Field(alias="left out")


class _Labelled(Shape):
    samples: dict[str, Annotated[list[str], AfterValidator(_sample)]]
    counts: _Counts
    per_class: dict[str, int]
    labels: int
    rule: str
    by: str
    seed: int
    short: int
    subjects_of_test: int = 0


@dataclass(frozen=True)
class LabelSplit:
    """A dataset's training part, divided.

    Attributes:
        parts: one of PARTS for each sample.
        record: what the run folder keeps, its hash included.
        include_labelled: whether the labelled samples are unlabelled ones too.
    """

    parts: tuple[str, ...]
    record: dict[str, Any]
    include_labelled: bool

    def labelled(self) -> np.ndarray:
        """Return the positions of the labelled samples."""
        return np.array([i for i, part in enumerate(self.parts) if part == LABELLED], dtype=np.int64)

    def unlabelled(self) -> np.ndarray:
        """Return the positions of the samples that adaptation sees, without their labels."""
        wanted = (LABELLED, UNLABELLED) if self.include_labelled else (UNLABELLED,)
        return np.array([i for i, part in enumerate(self.parts) if part in wanted], dtype=np.int64)

    def report(self) -> LabelSplitReport:
        """Return counts and rule, without the samples, as JSON values."""
        record = self.record
        return {
            "labels": record["labels"],
            "rule": record["rule"],
            "by": record["by"],
            "seed": record["seed"],
            "counts": record["counts"],
            "per_class": record["per_class"],
            "short": record["short"],
            "include_labelled": self.include_labelled,
            "subjects_of_test": record.get("subjects_of_test", 0),
        }


def divide_labels(
    pool: Table,
    content: Mapping[int, str],
    classes: Sequence[str],
    spec: DomainSpec,
    *,
    seed: int,
    excluded: frozenset[int] = frozenset(),
    test: Table | None = None,
    file: Path | None = None,
) -> LabelSplit:
    """Divide a training part, by drawing or as a file says.

    Args:
        pool: the training part; labels are indices into `classes`, -1 = unknown.
        content: row of the reader -> hash of its content.
        classes: of the run. spec: options as of this module. seed: of the drawing.
        excluded: rows whose label is in doubt; they stay unlabelled.
        test: the test part; with shots or fraction samples of its subjects and sequences stay unlabelled too.
        file: labelled.json of the run that goes on; it wins over the options.

    Raises:
        UserInputError: if there are fewer images than labels, a class without one, nothing left unlabelled, or a file
            that is not of this data.
    """
    # Copies under different labels: one of the two is wrong, and nobody knows which.
    labels = np.where([row in excluded for row in pool.rows.tolist()], -1, pool.labels)
    if file is None and "label_file" in spec.options:
        file = user_path(spec.options["label_file"])
    if file is not None:
        record = read_labels(file)
        parts = _parts_of(record, pool, content, classes, file)
    else:
        watched = test if test is not None and spec.asks_for_few else pool.subset([])
        shown = _shown(pool, watched)
        chosen, skipped, how = draw_labels(pool, np.where(shown, -1, labels), classes, spec, seed)
        if shown.any():
            how["subjects_of_test"] = int((labels[shown] >= 0).sum())
        parts = _named_parts(len(pool), chosen, skipped)
        record = _record(pool, parts, content, classes, {"spec": spec.text, **how})
    split = LabelSplit(parts, record, spec.flag("include_labelled"))
    if not len(split.unlabelled()):
        fix = "ask for fewer labels" + (", or ?label_by=image" if record["by"] == "subject" else "")
        raise UserInputError("no image is left without a label", where=spec.where, fix=fix)
    return split


def _shown(pool: Table, test: Table) -> np.ndarray:
    """Return bool[n]: whose subject is in the test part, or, if that is unknown, whose sequence."""
    subjects, sequences = set(test.subjects) - {""}, set(test.sequences) - {""}
    pairs = zip(pool.subjects, pool.sequences, strict=True)
    return np.array([who in subjects if who else sequence in sequences for who, sequence in pairs], dtype=bool)


def _named_parts(n: int, chosen: Sequence[int], skipped: Sequence[int]) -> tuple[str, ...]:
    parts = [UNLABELLED] * n
    for name, positions in ((LEFT_OUT, skipped), (LABELLED, chosen)):
        for i in positions:
            parts[i] = name
    return tuple(parts)


def _record(
    pool: Table, parts: Sequence[str], content: Mapping[int, str], classes: Sequence[str], how: Mapping[str, Any]
) -> dict[str, Any]:
    keys = _short_keys(pool)
    rows: dict[str, list[str]] = {}
    columns = zip(keys, parts, pool.rows.tolist(), pool.labels.tolist(), strict=True)
    # Sorted, so that equal divisions are equal files, whatever the order in memory.
    for key, part, row, label in sorted(columns):
        rows[key] = [part, content[row], *([classes[label]] if part == LABELLED else [])]
    if len(rows) != len(pool):
        raise UserInputError("two samples have one name, so that no file can tell them apart", where=pool.spec)
    taken = pool.subset([i for i, part in enumerate(parts) if part == LABELLED])
    counts = {part: parts.count(part) for part in PARTS}
    record = {
        "schema": 1, "kind": KIND, **how, "classes": list(classes),
        "counts": counts, "per_class": taken.counts(classes), "samples": rows,
    }  # fmt: skip
    return sealed(record)


def read_labels(path: Path) -> dict[str, Any]:
    """Return the content of a labelled.json.

    Raises:
        UserInputError: if it is missing, not such a file, or changed since it was written.
    """
    fix = "give labelled.json of a run folder as it was written, or draw again"
    return read_sealed(path, KIND, _Labelled, name="labelled split", option="label_file", fix=fix)


def _parts_of(
    record: Mapping[str, Any], pool: Table, content: Mapping[int, str], classes: Sequence[str], path: Path
) -> tuple[str, ...]:
    """Return the part of each sample as a file says; refuse a file of other data."""
    samples: Mapping[str, list[str]] = record["samples"]
    parts = []
    for key, row, label in zip(_short_keys(pool), pool.rows.tolist(), pool.labels.tolist(), strict=True):
        # By content, not by name alone: another image under the old name would carry its label.
        part, digest, *name = samples.get(key) or ("", "")
        if not part or digest != content[row]:
            what = f"{key!r} " + ("has other content than then" if part else "is not in it")
            raise UserInputError(f"labelled split of other data: {what}", where=str(path), fix="draw again")
        if name and (label < 0 or classes[label] != name[0]):
            what = f"labelled split of other labels: {key!r} was {name[0]}"
            raise UserInputError(what, where=str(path), fix="draw again")
        parts.append(part)
    if len(samples) != len(pool):
        gone = next(iter(set(samples) - set(_short_keys(pool))))
        what = f"labelled split of other data: {gone!r} is not in the training part"
        raise UserInputError(what, where=str(path), fix="draw again")
    return tuple(parts)


def _short_keys(pool: Table) -> list[str]:
    # Names below the common folder, so that the file fits the same dataset at another place.
    start = len(common_folder(pool.keys))
    return [key[start:] for key in pool.keys]
