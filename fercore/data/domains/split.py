"""Split files: which sample of a dataset belongs to which part, by seed, subjects kept together, and hashed.

A split file is JSON; `?split_file=FILE` on any spec divides the dataset as it says. Its own hash shows an edit by hand,
and the hash of the data shows that the dataset is another one than it was made for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fercore.data.domains.sealed import read_sealed, sealed
from fercore.data.fingerprint import common_folder
from fercore.data.labels import CANONICAL
from fercore.data.noise import permutation
from fercore.data.table import Table
from fercore.documents import Shape
from fercore.errors import UserInputError, did_you_mean
from fercore.writing import refuse_taken, whole

KIND = "fercore split"
PARTS = ("train", "val", "test")
RULES = ("subject", "class", "none")


class _Split(Shape):
    parts: dict[str, Literal["train", "val", "test"]]
    data_sha256: str


def divide(table: Table, shares: Mapping[str, float], *, by: str, seed: int) -> list[str]:
    """Return the part of each sample.

    Whole subjects (`by="subject"`), or single samples class by class ("class") or regardless of it ("none"), go one
    after another, in an order drawn by seed, to the part that is furthest from its share in their classes and in all.

    Args:
        table: the samples. shares: part -> positive weight. by: one of RULES. seed: of the order.

    Raises:
        UserInputError: if a sample's subject is unknown with "subject", or there are fewer subjects than parts.
    """
    units = _units(table, by)
    if len(units) < len(shares):
        kind, fix = "images", "give fewer parts"
        if by == "subject":
            kind, fix = "subjects", "give fewer parts, or divide --by class"
        raise UserInputError(f"{len(units)} {kind} for {len(shares)} parts", where=table.spec, fix=fix)
    names = list(shares)
    weight = np.array([shares[name] for name in names], dtype=np.float64)
    weight /= weight.sum()
    # Shifted by one: unlabelled samples (-1) are counted as a class of their own.
    k = len(CANONICAL) + 1
    labels = np.zeros(len(table), dtype=np.int64) if by == "none" else table.labels + 1
    total = np.bincount(labels, minlength=k).astype(np.float64)
    order = [units[i] for i in permutation(len(units), "divide", seed)]
    # Large units first: small ones fill what is left. Stable, so that the seed decides among equals.
    order.sort(key=lambda unit: -len(unit))
    filled = np.zeros((len(names), k))
    result = [""] * len(table)
    for unit in order:
        counts = np.bincount(labels[unit], minlength=k)
        part = int(np.argmax(_need(filled, total, weight, counts)))
        filled[part] += counts
        for i in unit:
            result[i] = names[part]
    return result


def _need(filled: np.ndarray, total: np.ndarray, weight: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return float[parts]: how much a unit with these class counts brings each part nearer to its share."""
    gap = weight[:, None] * total - filled
    overall = gap.sum(axis=1) / max(1.0, total.sum())
    # A class that is not there must not divide by 0.
    scale = np.maximum(total, 1.0)
    classes = (np.minimum(gap / scale, 1.0) * counts).sum(axis=1) / max(1, counts.sum())
    # Over the share: a part of a tenth that lacks one unit needs it more than one of nine tenths.
    relative: np.ndarray = (classes + overall) / weight
    return relative


def _units(table: Table, by: str) -> list[list[int]]:
    if by != "subject":
        return [[i] for i in range(len(table))]
    if not all(table.subjects):
        unknown = table.keys[table.subjects.index("")]
        raise UserInputError(f"subject of {unknown} is not known", where=table.spec, fix="divide --by class")
    members: dict[str, list[int]] = {}
    for i, subject in enumerate(table.subjects):
        members.setdefault(subject, []).append(i)
    return [members[name] for name in sorted(members)]


def parse_shares(text: str) -> dict[str, float]:
    """Read "train=0.8,val=0.1,test=0.1".

    Raises:
        UserInputError: for an unknown part, a share that is no positive number, or fewer than two parts.
    """
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = item.strip().partition("=")
        try:
            share = float(value)
        except ValueError:
            share = 0.0
        if name not in PARTS or name in shares:
            raise UserInputError(f"cannot read part {item!r}", where="--parts", fix=did_you_mean(name, PARTS))
        if not 0 < share < 1e6:
            raise UserInputError(f"share {value!r} is no positive number", where="--parts", fix="write train=0.8")
        shares[name] = share
    if len(shares) < 2:
        raise UserInputError("fewer than two parts", where="--parts", fix="write train=0.8,test=0.2")
    return shares


def folds(table: Table, count: int, *, by: str, seed: int) -> list[list[str]]:
    """Return for each of `count` folds the part of each sample: the fold itself is test, the others train.

    Raises:
        UserInputError: as `divide`, or for fewer than two folds.
    """
    if not 2 <= count <= max(2, len(table)):
        fix = f"give from 2 to {len(table)}, the number of images"
        raise UserInputError(f"{count} folds", where="--folds", fix=fix)
    drawn = divide(table, {str(k): 1.0 for k in range(count)}, by=by, seed=seed)
    return [["test" if part == str(k) else "train" for part in drawn] for k in range(count)]


def split_record(table: Table, parts: Sequence[str], **how: Any) -> dict[str, Any]:
    """Return the content of a split file, its hashes included."""
    start = len(common_folder(table.keys))
    keys = [key[start:] for key in table.keys]
    counts = {
        part: table.subset([i for i, p in enumerate(parts) if p == part]).counts(CANONICAL)
        for part in sorted(set(parts))
    }
    record = {
        "schema": 1,
        "kind": KIND,
        "spec": table.spec,
        **how,
        "n": len(table),
        "counts": counts,
        "data_sha256": _data_hash(table, keys),
        "parts": dict(zip(keys, parts, strict=True)),
    }
    if len(record["parts"]) != len(table):
        raise UserInputError("two samples have one name, so that a split file cannot tell them apart", where=table.spec)
    return sealed(record)


def write_split(record: Mapping[str, Any], path: Path) -> None:
    """Write a split file, whole or not at all.

    Raises:
        UserInputError: if it cannot be written or is there already.
    """
    refuse_taken(path)
    with whole(path, "w") as file:  # a name that is no UTF-8 is written as JSON's own escapes, and read back as it was
        file.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read_split(path: Path) -> dict[str, Any]:
    """Return the content of a split file.

    Raises:
        UserInputError: if it is missing, no split file, or changed since it was written.
    """
    fix = "make it with `fercore data split`, or use the manifest format for a division by hand"
    return read_sealed(path, KIND, _Split, name="split file", option="split_file", fix=fix)


def apply_split(table: Table, path: Path) -> Table:
    """Return the table divided as a split file says.

    Raises:
        UserInputError: as `read_split`, or if the file was made for other data: names the first sample that differs.
    """
    record = read_split(path)
    start = len(common_folder(table.keys))
    keys = [key[start:] for key in table.keys]
    known = record["parts"]
    strange = next((key for key in keys if key not in known), None)
    if strange is not None or len(known) != len(keys):
        gone = next(iter(set(known) - set(keys)), "")
        what = f"{strange!r} is not in the split file" if strange is not None else f"{gone!r} is not in the dataset"
        raise UserInputError(f"split file of other data: {what}", where=str(path), fix="make it again")
    if record["data_sha256"] != _data_hash(table, keys):
        what = "split file of other data: labels or subjects have changed"
        raise UserInputError(what, where=str(path), fix="make it again")
    return replace(table, split=tuple(known[key] for key in keys))


def _data_hash(table: Table, keys: Sequence[str]) -> str:
    # Without the paths in front, so that a moved dataset is the same.
    rows = sorted(zip(keys, table.labels.tolist(), table.subjects, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
