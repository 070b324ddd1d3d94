"""`folder`: an ImageFolder tree, CLASS/*.png, train|adapt/CLASS and test|val/CLASS, or CLASS/train and CLASS/test.

Parts are known by the names that exports give them (`part_of`): Training, PublicTest, val_set, test-images, ...; a
folder beside parts that is none itself is left out, and named.

Class folders are matched by name or alias in any case; images may stand in folders below them. Numbered class folders
need `labels=` (rafdb, fer2013, affectnet, ...). A part without class folders, or the whole folder, is unlabelled: its
loose images are what a target may adapt to and be predicted on. Beside class folders loose images are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from fercore import files
from fercore.data.formats.reading.codes import Labels, labels_of, whole_number
from fercore.data.formats.reading.scan import Rows, Scan, existing, listed, not_empty
from fercore.data.images.codecs import HEAD, IMAGE_SUFFIXES, is_picture
from fercore.data.images.readers import FileReader
from fercore.data.labels import CANONICAL, find_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

PARTS: dict[str, str] = {
    "train": "train", "training": "train", "adapt": "train", "adaptation": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val", "eval": "val",
    "evaluation": "val", "publictest": "val",
    "test": "test", "testing": "test", "privatetest": "test",
}  # fmt: skip
"""What the name of a part comes to (`part_of`) -> the part. Of FER2013 PublicTest is the validation part."""

OF_WHAT = re.compile(r"(?:data|datasets?|sets?|splits?|images?|imgs?|faces?|class|classes)$")
"""What exports put behind a part's name: train_set, TestImages, val_class."""

JUNK = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"})
"""Lower-case names of folders that systems leave beside one's own; what is in them is no part of a dataset."""

LITTER = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
"""Lower-case names of files of that kind."""

LOOSE = "loose images"
"""Why images that stand beside class folders or parts are left out."""

BESIDE = "folder {!r} beside the parts"
"""Why the images of a folder are left out, where others are parts."""

FIX = (
    f"name class folders after expressions ({', '.join(CANONICAL)}), say what they mean (?names=FILE.toml, ?labels=), "
    "or put unlabelled images loose"
)


def scan(spec: DomainSpec) -> Scan:
    """Read a tree of class folders, or loose images as unlabelled ones.

    Raises:
        UserInputError: if the folder is missing, a class folder is empty (named), numbered folders have no `labels=`,
            or no image is found.
    """
    root = existing(spec.path, folder=True, where=spec.where)
    rows, labels = Rows(), labels_of(spec)
    parts = part_folders(rows, root)
    for part, split in parts:
        add_part(rows, part, split, labels)
    if not parts:
        _add_images(rows, root, "", labels)
    elif loose := loose_images(root):
        rows.skipped[LOOSE] += len(loose)
    labels.refuse_guess(rows, str(root))
    fix = FIX
    if rows.unknown:
        # Archives often wrap the dataset in a folder of its own.
        inner = next((child for child in subfolders(root) if not parts and _is_dataset(child)), None)
        fix = f"did you mean '{DomainSpec.of('folder', str(inner))}'?" if inner is not None else FIX
    not_empty(rows, str(root), fix)
    return Scan(rows, FileReader(tuple(rows.keys)))


def part_of(name: str) -> str | None:
    """Return the part, train, val or test, that the name of a folder or a split says in any case; else None."""
    key = re.sub(r"[\s._-]+", "", name.lower())
    # FER2013Train and the like name the dataset before the part.
    key = key.removeprefix("fer2013")
    return PARTS.get(key) or PARTS.get(OF_WHAT.sub("", key))


def part_folders(rows: Rows, root: Path, known: Callable[[str], str | None] = part_of) -> list[tuple[Path, str]]:
    """Return the folders that are parts, with the part; images of the folders beside them count as left out.

    Args:
        rows: counts them. root: the dataset. known: name of a folder -> its part, or None.
    """
    named = [(child, known(child.name)) for child in subfolders(root)]
    parts = [(child, part) for child, part in named if part is not None]
    for child, part in named:
        # Without parts the same folders are classes.
        if parts and part is None and (images := images_below(child)):
            rows.skipped[BESIDE.format(child.name)] += len(images)
    return parts


def beside_parts(rows: Rows) -> list[str]:
    """Return the reasons of `rows.skipped` that are folders beside parts."""
    return [reason for reason in rows.skipped if reason.endswith(BESIDE.partition("}")[2])]


def _is_dataset(folder: Path) -> bool:
    """Return whether a folder holds parts or class folders, named or numbered."""
    names = [child.name for child in subfolders(folder)]
    return any(part_of(name) or find_label(name) is not None or whole_number(name) is not None for name in names)


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, by name.

    Raises:
        UserInputError: if it cannot be listed.
    """
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir() and _is_own(child.name))
    except OSError as error:
        raise UserInputError(f"cannot list folder: {error.strerror}", where=str(folder)) from None


def images_below(folder: Path, rows: Rows | None = None) -> list[str]:
    """Return the image files of a folder and the folders in it, sorted; links to folders are not followed.

    Args:
        folder: where to look. rows: count the files that are no images, and name the first of a kind.

    Raises:
        UserInputError: if a folder cannot be listed.
    """
    image_paths: list[str] = []
    waiting = [str(folder)]
    while waiting:
        entries = _entries(waiting.pop())
        image_paths += _images(entries, rows)
        inner = [entry for entry in entries if _is_folder(entry) and _is_own(entry.name)]
        # Reversed: the stack then gives folders in the order of their names. Links could lead in a circle.
        waiting += [entry.path for entry in reversed(inner) if not entry.is_symlink()]
        for entry in inner:
            if entry.is_symlink() and rows is not None:
                rows.leave_file(entry.path, "a link to a folder")
    return image_paths


def loose_images(folder: Path, rows: Rows | None = None) -> list[str]:
    """Return the image files that stand directly in a folder, sorted; arguments and errors as for `images_below`."""
    return _images(_entries(str(folder)), rows)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what stands in a folder, by name, but for hidden files and those that systems leave there."""
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in LITTER]
    except OSError as error:
        raise UserInputError(f"cannot list folder: {error.strerror}", where=folder) from None
    return sorted(seen, key=lambda entry: entry.name)


def _images(entries: list[os.DirEntry[str]], rows: Rows | None) -> list[str]:
    image_paths = []
    for entry in entries:
        if _is_folder(entry):
            continue
        fault = _no_image(entry)
        if not fault:
            image_paths.append(entry.path)
        elif rows is not None:
            rows.leave_file(entry.path, fault)
    return image_paths


def _no_image(entry: os.DirEntry[str]) -> str:
    """Return why a file is none of the images; "" for a file with an image's name or an image's first bytes.

    A link that leads nowhere is taken by its name: that it cannot be loaded is told when images are looked at.
    """
    named = os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
    if not os.path.isfile(entry.path) if entry.is_symlink() else not entry.is_file():
        kind = files.irregular(entry.path)
        return "" if named and not kind else kind or "a link to nothing"
    if named:
        return ""
    try:
        # A file without an image's suffix may still be an image; its first bytes decide.
        with files.open_regular(entry.path) as file:
            head = file.read(HEAD)
    except OSError as error:
        return f"cannot be loaded ({error.strerror})"
    return "" if is_picture(head) else "other content"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link in a circle is an error to entry.is_dir().
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def add_part(rows: Rows, part: Path, split: str, labels: Labels) -> None:
    """Add the class folders of train/, val/ or test/, or its loose images as unlabelled ones."""
    if not subfolders(part) and not loose_images(part):
        raise UserInputError("empty folder", where=str(part), fix="put class folders with images there, or remove it")
    _add_images(rows, part, split, labels)


def _add_images(rows: Rows, root: Path, split: str, labels: Labels) -> None:
    labelled = _add_classes(rows, root, split, labels)
    # Beside class folders only images count as left out, not every other file.
    loose = loose_images(root, None if labelled else rows)
    if labelled and loose:
        rows.skipped[LOOSE] += len(loose)
    elif not labelled:
        for image in loose:
            rows.add(image, -1, split=split)


def _add_classes(rows: Rows, root: Path, split: str, labels: Labels) -> bool:
    """Add the images of the class folders; return whether there is such a folder."""
    empty, labelled = [], False
    for folder in subfolders(root):
        images = _images_of_class(rows, folder, split)
        label = labels.find(folder.name, rows, len(images))
        if label is None:
            continue
        labelled = True
        if not images:
            empty.append(folder)
        for image, part in images:
            rows.add(image, label, split=part)
    if empty:
        what = "empty class folder" + ("s" if len(empty) > 1 else "")
        where = str(empty[0]) if len(empty) == 1 else listed([str(path) for path in empty])
        raise UserInputError(what, where=where, fix="put images there, or remove it")
    return labelled


def _images_of_class(rows: Rows, folder: Path, split: str) -> list[tuple[str, str]]:
    """Return the images of a class folder with their part: the one it stands in, or those that stand in it."""
    # Inside a part "train" is no part again: CLASS/train below test/ would contradict it.
    parts = [] if split else part_folders(rows, folder)
    if not parts:
        return [(image, split) for image in images_below(folder, rows)]
    if loose := loose_images(folder, rows):
        rows.skipped[LOOSE] += len(loose)
    return [(image, part) for child, part in parts for image in images_below(child, rows)]


def _is_own(name: str) -> bool:
    """Return whether a folder is the user's: neither hidden nor left there by a system."""
    return not name.startswith(".") and name.lower() not in JUNK
