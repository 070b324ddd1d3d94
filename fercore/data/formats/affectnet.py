"""`affectnet`: AffectNet in its three releases, told apart by what the folder holds.

CSV: training.csv and validation.csv (subDirectory_filePath, face_x, face_y, face_width, face_height, ..., expression),
images in Manually_Annotated_Images/ or `images=FOLDER`; faces are cut out by their box unless `crop=none`.
npy: train_set/ and val_set/ with images/<id>.jpg and annotations/<id>_exp.npy.
Folders: <split>/<0..7>/, class folders by number or name.
Codes 8 to 10 (none, uncertain, no face) are left out. `per_class=N` keeps at most N training images of a class, drawn
by `seed` (0).
"""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path

import numpy as np

from fercore.data.formats.folder import add_part, loose_images, part_folders, subfolders
from fercore.data.formats.reading.codes import Labels, labels_of
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, safe_path
from fercore.data.formats.reading.tables import csv_rows
from fercore.data.images.codecs import Unusable
from fercore.data.images.crops import Box, CropReader
from fercore.data.images.readers import FileReader, file_bytes
from fercore.data.noise import permutation
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

CSVS = {"training.csv": "train", "validation.csv": "val"}
CSV_FOLDERS = ("", "Manually_Annotated_file_lists", "Manually_Annotated/Manually_Annotated_file_lists")
IMAGE_FOLDERS = (
    "Manually_Annotated_Images",
    "Manually_Annotated/Manually_Annotated_Images",
    "Manually_Annotated_compressed/Manually_Annotated_Images",
)
SETS = {"train_set": "train", "val_set": "val", "test_set": "test"}
BOX = ("face_x", "face_y", "face_width", "face_height")
FIX = "give the folder with training.csv, with train_set/, or with train/<class>/"


def scan(spec: DomainSpec) -> Scan:
    """Read AffectNet.

    Raises:
        UserInputError: for a folder that is none of the releases, a bad row (by line) or a bad annotation file.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    crop = spec.choice("crop", ("box", "none"), "box") == "box"
    lists = _csvs(root)
    rows, boxes, labels = Rows(), dict[int, Box](), labels_of(spec, "affectnet")
    if lists:
        _scan_csvs(rows, boxes, lists, root, spec, labels)
    # Before the class folders: train_set/ is also a name that `part_of` knows.
    elif any(child.name.lower() in SETS for child in subfolders(root)):
        for part, split in part_folders(rows, root, lambda name: SETS.get(name.lower())):
            _scan_set(rows, part, split, labels)
    elif parts := part_folders(rows, root):
        for part, split in parts:
            add_part(rows, part, split, labels)
    else:
        raise UserInputError("none of AffectNet's releases", where=str(root), fix=FIX)
    labels.refuse_guess(rows, str(root))
    not_empty(rows, str(root), FIX)
    kept = _at_most(rows, spec)
    keys = tuple(rows.keys)
    if lists and crop:
        # By the place a row had before `per_class` took rows out.
        return Scan(rows, CropReader(keys, tuple(boxes.get(i) for i in kept)))
    return Scan(rows, FileReader(keys))


def _csvs(root: Path) -> list[tuple[Path, str]]:
    candidates = [(root / folder / name, split) for folder in CSV_FOLDERS for name, split in CSVS.items()]
    return [(path, split) for path, split in candidates if path.is_file()]


def _scan_csvs(
    rows: Rows,
    boxes: dict[int, Box],
    lists: list[tuple[Path, str]],
    root: Path,
    spec: DomainSpec,
    labels: Labels,
) -> None:
    if "images" in spec.options:
        images = existing(spec.options["images"], folder=True, where=spec.where)
    else:
        images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), root)
    for path, split in lists:
        for number, row in csv_rows(path, ["subdirectory_filepath", "expression", *BOX]):
            where = f"{path}, line {number}"
            label = labels.find(row["expression"], rows)
            if label is None:
                continue
            file = safe_path(row["subdirectory_filepath"], images, trusted=None, where=where)
            box = _box(row, where)
            # A box stands under its row's place: rows of missing files are not added, and have none.
            before = len(rows.keys)
            rows.add_file(file, label, split=split)
            if box is not None and len(rows.keys) > before:
                boxes[before] = box


def _box(row: dict[str, str], where: str) -> Box | None:
    """Return the face box of a row, or None where the release gives none (empty or NULL cells)."""
    cells = [row[name] for name in BOX]
    if any(cell.upper() in ("", "NULL", "NAN") for cell in cells):
        return None
    try:
        left, top, width, height = (int(float(cell)) for cell in cells)
    except (ValueError, OverflowError):
        raise UserInputError(f"face box {' '.join(cells)[:40]!r} is not four numbers", where=where) from None
    return left, top, left + width, top + height


def _scan_set(rows: Rows, part: Path, split: str, labels: Labels) -> None:
    images, annotations = part / "images", part / "annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            fix = "the release has images/<id>.jpg and annotations/<id>_exp.npy"
            raise UserInputError(f"no folder {folder.name}/", where=str(part), fix=fix)
    for image in loose_images(images, rows):
        label = labels.find(read_expression(annotations / f"{Path(image).stem}_exp.npy"), rows)
        if label is not None:
            rows.add(image, label, split=split)


def read_expression(path: Path) -> str:
    """Return the expression code in an annotation file, an array of one number or string.

    Raises:
        UserInputError: if the file is missing, or is not such an array.
    """
    try:
        # No pickle: an object array from elsewhere could run code.
        value = np.load(io.BytesIO(file_bytes(str(path))), allow_pickle=False)
        if value.size != 1:
            raise ValueError(f"{value.size} values instead of one")
        text = str(value.reshape(-1)[0])
        # The release stores codes as numbers or as text, some as "3.0".
        return str(int(float(text)))
    except Unusable as error:
        raise UserInputError(f"annotation {error}", where=str(path)) from None
    except Exception as error:  # a broken header can raise whatever its literal evaluates to
        what = f"annotation is no array of one expression code: {str(error)[:80]}"
        raise UserInputError(what, where=str(path), fix="codes are 0 to 10") from None


def _at_most(rows: Rows, spec: DomainSpec) -> list[int]:
    """Keep at most `per_class` training samples of each class; return the places of the rows that stay."""
    most = spec.integer("per_class", 0)
    everything = list(range(len(rows.keys)))
    if not most:
        return everything
    members: dict[int, list[int]] = defaultdict(list)
    for i, (label, split) in enumerate(zip(rows.labels, rows.split, strict=True)):
        if split == "train":
            members[label].append(i)
    dropped: set[int] = set()
    for label, at in members.items():
        # A draw of its own for each class: leaving a class out does not change which images of the others stay.
        order = permutation(len(at), "per_class", spec.integer("seed", 0), label)
        dropped |= {at[k] for k in order[most:].tolist()}
    if dropped:
        rows.skipped["beyond per_class"] += len(dropped)
    kept = [i for i in everything if i not in dropped]
    rows.keep(kept)
    return kept
