"""`fercore data convert`: any dataset as a manifest that every tool can read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fercore.data.domains.domain_set import read_chosen
from fercore.data.domains.skipped import leftover_lines
from fercore.data.fingerprint import common_folder
from fercore.data.formats.reading.columns import MANIFEST
from fercore.data.images.readers import FileReader
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.documents import CsvWriter
from fercore.errors import UserInputError
from fercore.files import open_regular
from fercore.writing import WriteError, is_unused, make_parents, whole, whole_folder

TABLE = "manifest.csv"


@dataclass(frozen=True)
class Converted:
    """A dataset written as a manifest.

    Attributes:
        spec: of the manifest. n: samples in it.
        unusable: (key, reason) of images that were to be written and cannot be read: they are not in it.
        notes: what the dataset names and has not, in lines for people.
    """

    spec: str
    n: int
    unusable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def convert(spec: DomainSpec, out: Path, *, copy: bool) -> Converted:
    """Write `out`/manifest.csv, with images/ beside it where they are copied or are no files.

    Args:
        spec: the dataset. out: a folder that does not exist or is empty.
        copy: copy image files instead of pointing to them. Faces cut out of larger images, pixels in CSV files and
            generated faces are written as PNG in any case.

    Raises:
        UserInputError: as the format, if `out` lies in the dataset, holds something or cannot be written, if no image
            can be read, or for an image that no manifest can point to.
    """
    spec.refuse_inside(out)
    table, scan = read_chosen(spec)
    if not is_unused(out):
        raise UserInputError("the output folder is not empty", where=str(out), fix="choose a new folder")
    points = isinstance(table.reader, FileReader) and not copy
    files = [os.path.abspath(key) for key in table.keys] if points else []
    root = common_folder(tuple(files))
    root = root[: root.rfind(os.sep) + 1]  # a backslash may be part of a name
    paths: list[str | None] = [file[len(root) :] for file in files]
    _refuse_unsayable(root, paths)
    unusable: list[tuple[str, str]] = []
    make_parents(out)
    with whole_folder(out, TABLE) as draft:
        if not points:
            paths = _write_images(table, draft, unusable)
        written = np.array([i for i, path in enumerate(paths) if path is not None], dtype=np.int64)
        _write_manifest(table.subset(written), [path for path in paths if path is not None], draft)
    options = {"root": root} if points else {}
    if isinstance(table.reader, FileReader) and table.reader.scaling is not None:
        options["range"] = str(table.reader.scaling)  # the files are what they were; other images are 8 bits now
    manifest = DomainSpec.of("manifest", str(out / TABLE), options).text
    return Converted(manifest, len(written), tuple(unusable), tuple(leftover_lines(scan)))


def _refuse_unsayable(root: str, paths: Sequence[str | None]) -> None:
    r"""Refuse files that a manifest cannot point to: lists write `\\` for `/`, strip blanks and are UTF-8.

    Raises:
        UserInputError: for the first such name.
    """
    for path in filter(None, paths):
        if path != path.strip() or (os.sep == "/" and "\\" in path) or path != path.encode("utf-8", "replace").decode():
            what, fix = "a manifest cannot point to a file of this name", "rename it, or copy the images (--copy)"
            raise UserInputError(what, where=repr(root + path), fix=fix)
    if "?" in root or "&" in root or root != root.encode("utf-8", "replace").decode():
        what, fix = "a spec cannot name this folder as its root", "rename it, or copy the images (--copy)"
        raise UserInputError(what, where=repr(root), fix=fix)


def _write_images(table: Table, folder: Path, unusable: list[tuple[str, str]]) -> list[str | None]:
    """Write every image and return its path in the folder, None for those that cannot be read.

    Image files are copied byte for byte; `unusable` gets key and reason of those that cannot be read.
    """
    digits = max(5, len(str(len(table))))
    paths: list[str | None] = []
    for i, label in enumerate(table.labels.tolist()):
        place = f"images/{CANONICAL[label] if label >= 0 else 'unlabelled'}"
        (folder / place).mkdir(parents=True, exist_ok=True)
        try:
            paths.append(_write_image(table, i, folder, f"{place}/{i:0{digits}d}"))
        # A full disk ends it; only what is wrong with one image is counted.
        except WriteError:
            raise
        except UserInputError as error:
            unusable.append((table.keys[i], error.what))
            paths.append(None)
    if not any(paths):
        key, reason = unusable[0]
        raise UserInputError(f"no image can be read, the first is {key}: {reason}", where=table.spec)
    return paths


def _write_image(table: Table, i: int, folder: Path, place: str) -> str:
    from PIL import Image

    if not isinstance(table.reader, FileReader):
        Image.fromarray(table.read(i)).save(folder / f"{place}.png")
        return f"{place}.png"
    source = table.reader.paths[int(table.rows[i])]
    path = place + os.path.splitext(source)[1].lower()
    try:
        file = open_regular(source)
    except OSError as error:
        raise UserInputError(f"cannot be loaded: {error.strerror}", where=source) from None
    with file, whole(folder / path, sync=False) as copy:
        shutil.copyfileobj(file, copy)
    return path


def _write_manifest(table: Table, paths: list[str], folder: Path) -> None:
    with whole(folder / TABLE, "w") as file:
        writer = CsvWriter(file)
        writer.writerow(MANIFEST)
        for row in zip(paths, table.labels.tolist(), table.split, table.subjects, table.sequences, strict=True):
            name = CANONICAL[row[1]] if row[1] >= 0 else ""
            writer.writerow((row[0], name, table.name, *row[2:]))
