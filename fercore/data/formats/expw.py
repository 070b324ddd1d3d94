"""`expw`: ExpW, label.lst with one face a line and crops from the original images.

A line is "image_name face_id top left right bottom confidence label". The list lies in the folder or in label/ or
data/label/, the images in image/origin/, image/ or data/image/origin/ (or `images=FOLDER`). There is no official
division: `parts=stratified` (the default) draws 28,848 training, 28,853 validation and 34,092 test faces, in these
proportions within every class, by `seed` (0); `parts=none` leaves it undivided.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fercore.data.formats.reading.codes import labels_of
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, read_text, safe_path
from fercore.data.images.crops import Box, CropReader
from fercore.data.noise import permutation
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

LISTS = ("label.lst", "label/label.lst", "data/label/label.lst", "data/label.lst")
IMAGES = ("data/image/origin", "image/origin", "origin", "data/image", "image", "images", "")
SIZES = {"train": 28_848, "val": 28_853, "test": 34_092}
LINE = '"image_name face_id top left right bottom confidence label"'


def scan(spec: DomainSpec) -> Scan:
    """Read ExpW.

    Raises:
        UserInputError: for a missing list or folder, or a line (by number) that is not of that form.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    parts = spec.choice("parts", ("stratified", "none"), "stratified")
    path, images = _list_of(root, spec), _images_of(root, spec)
    rows, boxes, labels = Rows(), [], labels_of(spec, "expw")
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            name, face, box, native = parse_line(line, f"{path}, line {number}")
            file = safe_path(name, images, trusted=None, where=f"{path}, line {number}")
            label = labels.find(native, rows)
            if label is None:
                continue
            if rows.has_file(file):
                rows.add(f"{file}#{face}", label)
                boxes.append((file, box))
    labels.refuse_guess(rows, str(path))
    not_empty(rows, str(path), "check that the images lie in data/image/origin, or give ?images=FOLDER")
    if parts == "stratified":
        rows.split = stratified(rows.labels, spec.integer("seed", 0))
    return Scan(rows, CropReader(tuple(file for file, _ in boxes), tuple(box for _, box in boxes)))


def parse_line(line: str, where: str) -> tuple[str, str, Box, str]:
    """Return (image name, face number, box, native label) of a line of label.lst; the name may hold blanks.

    Raises:
        UserInputError: if it has too few words, or a place is no number.
    """
    # From the right, since the name on the left may hold blanks.
    words = line.rsplit(None, 7)
    if len(words) != 8:
        raise UserInputError(f"line with {len(line.split())} words instead of 8", where=where, fix=f"write {LINE}")
    try:
        # ExpW's order, vertical first; `Box` begins with the left.
        top, left, right, bottom = (int(float(word)) for word in words[2:6])
        # The detector's confidence is not used, but a line without one has its columns shifted.
        float(words[6])
    except (ValueError, OverflowError):
        fix = f"a line is {LINE}"
        raise UserInputError(f"box {' '.join(words[2:7])[:40]!r} is not numbers", where=where, fix=fix) from None
    return words[0], words[1], (left, top, right, bottom), words[7]


def stratified(labels: list[int], seed: int) -> list[str]:
    """Return the part of each face: every class divided in the proportions of SIZES, in all as exactly as it goes."""
    names, total = list(SIZES), sum(SIZES.values())
    known = np.asarray(labels)
    # Shuffled, then sorted by class with the order kept: random inside every class.
    shuffled = permutation(len(known), "expw", seed)
    order = shuffled[np.argsort(known[shuffled], kind="stable")]
    # Classes laid end to end, walked in steps that visit every place once and any stretch evenly.
    place = (np.arange(len(order)) * _coprime(len(order))) % len(order)
    ends = np.cumsum([SIZES[name] for name in names])
    parts = np.empty(len(order), dtype=object)
    parts[order] = np.array(names, dtype=object)[np.searchsorted(ends, place * total // len(order), side="right")]
    return [str(part) for part in parts]


def _coprime(n: int) -> int:
    """Return a step near the golden section of n that shares no factor with it: it visits every place once, evenly."""
    step = max(1, round(n * 0.6180339887498949))
    while np.gcd(step, n) != 1:
        step += 1
    return step


def _list_of(root: Path, spec: DomainSpec) -> Path:
    for name in LISTS:
        if (root / name).is_file():
            return root / name
    raise UserInputError("no label.lst", where=spec.where, fix="give the folder that holds label.lst or data/label/")


def _images_of(root: Path, spec: DomainSpec) -> Path:
    if "images" in spec.options:
        return existing(spec.options["images"], folder=True, where=spec.where)
    return next(root / name for name in IMAGES if (root / name).is_dir())
