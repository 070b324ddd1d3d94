"""`ferplus`: FER+ votes, with the pixels of fer2013.csv or the images of the FER+ folders.

A folder is given: either it holds fer2013new.csv (or give that file) and the pixels are in fer2013.csv beside it
(or `images=FILE`), or it holds FER2013Train/, FER2013Valid/ and FER2013Test/, each with label.csv and images.
`rule=majority` (the default) sets votes of one or less aside and takes the class with more than half of the rest;
`rule=argmax` takes the class with most votes. Faces voted "unknown" or "not a face", or without a majority, are left
out and counted.
"""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path

import numpy as np

from fercore.data.formats.fer2013 import SIDE, csv_file, native_rows, parse_pixels
from fercore.data.formats.reading.codes import CODES, whole_number
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, safe_path, user_path
from fercore.data.formats.reading.tables import csv_lines, csv_rows
from fercore.data.images.readers import ArrayReader, FileReader
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError
from fercore.terminal import counted

VOTES = (*CODES["ferplus"].values(), "unknown", "nf")
FOLDERS: dict[str, str] = {"FER2013Train": "train", "FER2013Valid": "val", "FER2013Test": "test"}
# As FER+ names them: PublicTest validates, PrivateTest tests.
SPLITS: dict[str, str] = {"training": "train", "publictest": "val", "privatetest": "test"}


def scan(spec: DomainSpec) -> Scan:
    """Read FER+.

    Raises:
        UserInputError: for a missing file, a bad row (by line), or vote and pixel files of different length.
    """
    rule = spec.choice("rule", ("majority", "argmax"), "majority")
    root = user_path(spec.path)
    folders = [name for name in FOLDERS if os.path.isfile(root / name / "label.csv")]
    return _scan_folders(root, folders, rule) if folders else _scan_csv(spec, rule)


def vote(counts: list[int], rule: str) -> int | None:
    """Return the canonical label ten vote counts stand for, or None if they stand for no expression."""
    votes = np.array(counts)
    if rule == "majority":
        # The rule of the FER+ authors' code: single votes count as noise.
        votes[votes <= 1] = 0
        if votes.max() <= 0.5 * votes.sum():
            return None
    winner = int(votes.argmax())
    if winner not in CODES["ferplus"] or votes[winner] == 0:
        return None
    return CANONICAL.index(CODES["ferplus"][winner])


def _scan_csv(spec: DomainSpec, rule: str) -> Scan:
    path = csv_file(spec.path, "fer2013new.csv", spec.where)
    pixels = csv_file(spec.options.get("images", str(path.parent)), "fer2013.csv", spec.where)
    rows, images = Rows(), bytearray()
    # The two files share no key but the order of their rows, so both are read side by side and compared.
    for voted, native in zip_longest(csv_rows(path, ["usage", "image name", *VOTES]), native_rows(pixels)):
        if voted is None or native is None:
            what = f"{path.name} and {pixels.name} have different numbers of rows"
            raise UserInputError(what, where=str(path.parent), fix="they must belong to one release")
        number, row = voted
        where = f"{path}, line {number}"
        if row["usage"].lower() != native[3]:
            what = f"usage {row['usage']!r} here, {native[3]!r} in line {native[0]} of {pixels.name}"
            raise UserInputError(what, where=where, fix="the two files must have one order")
        counts = _counts([row[name] for name in VOTES], where)
        label = vote(counts, rule)
        # FER+ leaves the name empty where fer2013.csv shows no face.
        if not row["image name"] or label is None:
            rows.skipped["no majority" if row["image name"] else "no face"] += 1
        else:
            rows.add(f"{pixels.name}#{native[0]}", label, split=SPLITS[native[3]])
            images += parse_pixels(native[2], f"{pixels}, line {native[0]}").tobytes()
    not_empty(rows, str(path), "check the vote columns")
    return Scan(rows, ArrayReader(np.frombuffer(images, dtype=np.uint8).reshape(-1, SIDE, SIDE)))


def _scan_folders(root: Path, folders: list[str], rule: str) -> Scan:
    rows = Rows()
    for folder in folders:
        path = existing(str(root / folder / "label.csv"), folder=False, where=str(root))
        for number, cells in csv_lines(path):
            where = f"{path}, line {number}"
            if len(cells) != 2 + len(VOTES):
                raise UserInputError(f"row with {counted(len(cells), 'cell')} instead of {2 + len(VOTES)}", where=where)
            label = vote(_counts(cells[2:], where), rule)
            if label is None:
                rows.skipped["no majority"] += 1
            else:
                image = safe_path(cells[0], path.parent, trusted=None, where=where)
                rows.add_file(image, label, split=FOLDERS[folder])
    not_empty(rows, str(root), "check the label.csv files")
    return Scan(rows, FileReader(tuple(rows.keys)))


def _counts(cells: list[str], where: str) -> list[int]:
    counts = []
    for name, cell in zip(VOTES, cells, strict=True):
        votes = whole_number(cell)
        if votes is None or not 0 <= votes < 1000:
            raise UserInputError(f"votes for {name} are {cell!r}, not a count", where=where)
        counts.append(votes)
    return counts
