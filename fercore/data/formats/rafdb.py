"""`rafdb`: RAF-DB basic as distributed: EmoLabel/list_patition_label.txt and Image/aligned/<name>_aligned.jpg.

The folder may be RAF-DB's own or its basic/. `images=original` reads Image/original instead of the aligned faces.
A list that counts from 0 needs `labels=rafdb0`. Without a list it is RAF-DB as Kaggle has it: train/<1..7>/ and
test/<1..7>/, here or in DATASET/, with the aligned faces; the tables beside them say nothing that the folders do not.
"""

from __future__ import annotations

from pathlib import Path

from fercore.data.formats.folder import add_part, part_folders
from fercore.data.formats.reading.codes import Labels, labels_of
from fercore.data.formats.reading.lines import Line, list_lines
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, safe_path
from fercore.data.images.readers import FileReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

# The release misspells it; copies have it corrected.
LISTS = ("list_patition_label.txt", "list_partition_label.txt")


def scan(spec: DomainSpec) -> Scan:
    """Read RAF-DB.

    Raises:
        UserInputError: for a missing folder or list, a line that is not "train_00001.jpg 5", or numbers of another
            coding.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    images = spec.choice("images", ("aligned", "original"), "aligned")
    rows, labels = Rows(), labels_of(spec, "rafdb")
    if path := _label_list(root):
        folder = path.parent.parent / "Image" / images
        existing(str(folder), folder=True, where=spec.where)
        for line in list_lines(path, spec, labels, rows):
            _add(rows, line, folder, labels, aligned=images == "aligned")
    else:
        classes = _with_classes(root, spec)
        if images == "original":
            raise UserInputError("no original images in class folders", where=spec.where, fix="remove ?images=")
        for part, split in part_folders(rows, classes):
            add_part(rows, part, split, labels)
    labels.refuse_guess(rows, str(path or root))
    not_empty(rows, str(path or root), "check that the images lie in Image/aligned")
    return Scan(rows, FileReader(tuple(rows.keys)))


def _add(rows: Rows, line: Line, folder: Path, labels: Labels, *, aligned: bool) -> None:
    split = line.path.partition("_")[0]
    if not line.native or split not in ("train", "test"):
        text = f"{line.path[:40]} {line.native[:40]}".strip()
        raise UserInputError(f"cannot read {text!r}", where=line.where, fix='a line is "train_00001.jpg 5"')
    label = labels.find(line.native, rows)
    if label is None:
        return
    stem, _, suffix = line.path.rpartition(".")
    # The list names the original images, whichever are read.
    name = f"{stem}_aligned.{suffix}" if aligned else line.path
    rows.add_file(safe_path(name, folder, trusted=None, where=line.where), label, split=split)


def _label_list(root: Path) -> Path | None:
    lists = (base / "EmoLabel" / name for base in (root, root / "basic", root / "Basic") for name in LISTS)
    return next((path for path in lists if path.is_file()), None)


def _with_classes(root: Path, spec: DomainSpec) -> Path:
    """Return the folder that holds train/1/ and so on."""
    for base in (root, root / "DATASET"):
        if (base / "train" / "1").is_dir():
            return base
    fix = "give the folder that holds EmoLabel/list_patition_label.txt and Image/, or train/1/ to test/7/"
    raise UserInputError("no RAF-DB label list", where=spec.where, fix=fix)
