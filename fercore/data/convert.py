"""`fercore data convert`: any dataset as a manifest that every tool can read."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fercore.data.domains import read_chosen
from fercore.data.fingerprint import common_folder
from fercore.data.labels import CANONICAL
from fercore.data.readers import FileReader
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError

COLUMNS = ("path", "label", "domain", "split", "subject", "sequence")


def convert(spec: DomainSpec, out: Path, *, copy: bool) -> str:
    """Write `out`/manifest.csv, with images/ beside it where they are copied or are no files; return the new spec.

    Args:
        spec: the dataset. out: a folder that does not exist or is empty.
        copy: copy image files instead of pointing to them. Faces cut out of larger images, pixels in CSV files and
            generated faces are written as PNG in any case.

    Raises:
        UserInputError: as the format, if `out` holds something, or an image cannot be read.
    """
    table, _ = read_chosen(spec)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserInputError("the output folder is not empty", where=str(out), fix="choose a new folder")
    points = isinstance(table.reader, FileReader) and not copy
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        draft.chmod(0o755)
        files = [os.path.abspath(key) for key in table.keys] if points else []
        root = common_folder(tuple(files))
        paths = [file[len(root) :] for file in files] if points else list(_write_images(table, draft))
        _write_manifest(table, paths, draft / "manifest.csv")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return f"manifest:{out / 'manifest.csv'}" + (f"?root={root}" if points else "")


def _write_images(table: Table, folder: Path) -> Iterator[str]:
    """Write every image and yield its path in the folder; image files are copied byte for byte."""
    from PIL import Image

    digits = max(5, len(str(len(table))))
    for i, label in enumerate(table.labels.tolist()):
        place = f"images/{CANONICAL[label] if label >= 0 else 'unlabelled'}"
        (folder / place).mkdir(parents=True, exist_ok=True)
        if isinstance(table.reader, FileReader):
            source = table.reader.paths[int(table.rows[i])]
            path = f"{place}/{i:0{digits}d}{os.path.splitext(source)[1].lower()}"
            try:
                shutil.copyfile(source, folder / path)
            except OSError as error:
                raise UserInputError(f"cannot copy: {error.strerror}", where=source) from None
        else:
            path = f"{place}/{i:0{digits}d}.png"
            Image.fromarray(table.read(i)).save(folder / path)
        yield path


def _write_manifest(table: Table, paths: list[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in zip(paths, table.labels.tolist(), table.split, table.subjects, table.sequences, strict=True):
            name = CANONICAL[row[1]] if row[1] >= 0 else ""
            writer.writerow((row[0], name, table.name, *row[2:]))
