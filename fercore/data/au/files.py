"""Action-unit files: OpenFace 2, py-feat, LibreFace and plain tables, recognised by their header.

| file | image column | scores | codes |
|---|---|---|---|
| OpenFace 2 (`AU01_r`, `AU01_c`) | see below | `_r` / 5 | `_c` as it is |
| LibreFace (`au_1`, `au_1_intensity`) | see below | intensity / 5 | `au_1` as it is |
| py-feat Fex (`AU01`, `FaceScore`, `input`) | `input` | as they are | scores >= threshold |
| plain (`path`, `AU01`, ...) | `path` | as they are | scores >= threshold |

The image stands in the first of the columns path, image, file, filename, image_path, input, name. A unit with a code
but no intensity takes the code for its score; one with an intensity but no code is present from the threshold on. Of
several faces in an image the most confident counts (columns confidence, FaceScore); without such a column they are an
error.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fercore.data.au.match import plain_name
from fercore.data.au.table import AUTable, canonical_name
from fercore.data.formats.scan import listed, read_text
from fercore.errors import UserInputError

IMAGE_COLUMNS = ("path", "image", "file", "filename", "image_path", "input", "name")
CONFIDENCE_COLUMNS = ("confidence", "facescore")
MAX_INTENSITY = 5.0
FORMATS_THAT_DO = (
    "OpenFace 2 (AU01_r, AU01_c), py-feat Fex (input, AU01), LibreFace (au_1, au_1_intensity) or path,AU01,..."
)


@dataclass(frozen=True)
class _Column:
    """Where a unit's numbers stand: column of its score, what divides it, and column of its code."""

    score: int | None = None
    divisor: float = 1.0
    code: int | None = None


@dataclass(frozen=True)
class AUFile:
    """An action-unit file: image names and their units, row by row."""

    path: str
    images: tuple[str, ...]
    table: AUTable


def read_au_file(path: Path, threshold: float) -> AUFile:
    """Read an action-unit table.

    Args:
        path: a CSV file. threshold: scores from here on are present, where the file has no codes of its own.

    Raises:
        UserInputError: if it cannot be read, names no image or no unit, or holds a score outside 0..1.
    """
    where = str(path)
    if not path.is_file():
        raise UserInputError("action-unit file not found", where=where, fix=f"give a CSV: {FORMATS_THAT_DO}")
    rows = [row for row in csv.reader(read_text(path).splitlines()) if row]
    if len(rows) < 2:
        raise UserInputError("action-unit file without rows", where=where, fix=f"it should be {FORMATS_THAT_DO}")
    header = [name.strip() for name in rows[0]]
    columns = _unit_columns(header)
    if not columns:
        fix = f"its columns are {listed(header)}; it should be {FORMATS_THAT_DO}"
        raise UserInputError("no action unit in the file", where=where, fix=fix)
    best = _best_rows(rows, header, where)
    names = sorted(columns)
    scores = np.empty((len(best), len(names)), dtype=np.float32)
    codes = np.empty((len(best), len(names)), dtype=np.uint8)
    for i, line in enumerate(best.values()):
        for k, name in enumerate(names):
            scores[i, k], codes[i, k] = _cell(rows[line], columns[name], threshold, f"{where}, line {line + 1}, {name}")
    return AUFile(where, tuple(best), AUTable(tuple(names), scores, codes))


def _unit_columns(header: Sequence[str]) -> dict[str, _Column]:
    """Return unit -> its columns; `_r` and `_intensity` are FACS intensities, `_c` and LibreFace's bare name codes."""
    bare: dict[str, int] = {}
    intensity: dict[str, int] = {}
    code: dict[str, int] = {}
    for k, text in enumerate(header):
        lower = text.lower()
        for suffix, kind in (("_r", intensity), ("_intensity", intensity), ("_c", code), ("", bare)):
            name = canonical_name(lower.removesuffix(suffix)) if lower.endswith(suffix) else None
            if name is not None:
                kind[name] = k
                break
    if not intensity and not code:
        return {name: _Column(score=k) for name, k in bare.items()}
    code = {**bare, **code}
    return {
        name: _Column(intensity.get(name), MAX_INTENSITY, code.get(name)) for name in intensity.keys() | code.keys()
    }


def _best_rows(rows: Sequence[Sequence[str]], header: Sequence[str], where: str) -> Mapping[str, int]:
    """Return image -> its row (of several faces the most confident one), in order of first appearance."""
    lower = [name.lower() for name in header]
    image = next((lower.index(name) for name in IMAGE_COLUMNS if name in lower), None)
    if image is None:
        fix = f"add a column 'path' (also known: {', '.join(IMAGE_COLUMNS[1:])})"
        raise UserInputError("no column says which image a row belongs to", where=where, fix=fix)
    sure = next((lower.index(name) for name in CONFIDENCE_COLUMNS if name in lower), None)
    best: dict[str, tuple[float, int]] = {}
    for line in range(1, len(rows)):
        if len(rows[line]) != len(header):
            what = f"{len(rows[line])} cells in a table of {len(header)} columns"
            raise UserInputError(what, where=f"{where}, line {line + 1}")
        name = plain_name(rows[line][image])
        confidence = 0.0 if sure is None else _number(rows[line][sure], f"{where}, line {line + 1}, {header[sure]}")
        if name not in best:
            best[name] = (confidence, line)
        elif sure is None:
            fix = "keep one row an image, or add a column 'confidence'"
            raise UserInputError(f"two rows for image {name!r}", where=f"{where}, line {line + 1}", fix=fix)
        elif confidence > best[name][0]:
            best[name] = (confidence, line)
    return {name: line for name, (_, line) in best.items()}


def _cell(row: Sequence[str], column: _Column, threshold: float, where: str) -> tuple[float, int]:
    score = code = None
    if column.score is not None:
        score = _number(row[column.score], where) / column.divisor
        if not 0 <= score <= 1:
            most = f"{column.divisor:g}"
            what = f"score {row[column.score].strip()} is outside 0..{most}"
            raise UserInputError(what, where=where, fix=f"scale the scores to 0..{most}")
    if column.code is not None:
        number = _number(row[column.code], where)
        if number not in (0, 1):
            raise UserInputError(f"code {row[column.code].strip()} is neither 0 nor 1", where=where)
        code = int(number)
    if score is None:
        score = float(code or 0)
    return score, int(score >= threshold) if code is None else code


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserInputError(f"{text.strip()!r} is not a number", where=where) from None
    if not math.isfinite(value):
        raise UserInputError(f"{text.strip()} is not a finite number", where=where)
    return value
