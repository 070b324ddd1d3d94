"""Action-unit files: OpenFace 2, py-feat, LibreFace and plain tables, recognised by their header.

| file | image column | scores | codes |
|---|---|---|---|
| OpenFace 2 (`AU01_r`, `AU01_c`) | see below | `_r` / 5 | `_c` as it is |
| LibreFace (`au_1`, `au_1_intensity`) | see below | intensity / 5 | `au_1` as it is |
| py-feat Fex (`AU01`, `FaceScore`, `input`) | `input` | as they are | scores >= threshold |
| plain (`path`, `AU01`, ...) | `path` | as they are | scores >= threshold |

The image stands in the first of the columns path, image, file, filename, image_path, input, name. A unit with a code
but no intensity takes the code for its score; one with an intensity but no code is present from the threshold on. Of
several faces in an image the most confident counts (columns confidence, FaceScore); without such a column, or with the
same confidence, they are an error. A row without a face (OpenFace's success = 0, or no score at all) gives its image no
units: what is known of it is NaN.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fercore.data.au.match import plain_name
from fercore.data.au.table import AUTable, canonical_name
from fercore.data.formats.scan import listed, read_text
from fercore.errors import UserInputError
from fercore.files import no_file

IMAGE_COLUMNS = ("path", "image", "file", "filename", "image_path", "input", "name")
CONFIDENCE_COLUMNS = ("confidence", "facescore")
MAX_INTENSITY = 5.0
NOTHING = ("", "nan")
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
class _Row:
    line: int
    cells: Sequence[str]


@dataclass(frozen=True)
class AUFile:
    """An action-unit file: image names and their units, image by image; NaN for an image in which no face was found."""

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
        raise no_file(path, "action-unit file", fix=f"give a CSV: {FORMATS_THAT_DO}")
    rows = _rows(path)
    if len(rows) < 2:
        raise UserInputError("action-unit file without rows", where=where, fix=f"it should be {FORMATS_THAT_DO}")
    header = [name.strip() for name in rows[0].cells]
    columns = _unit_columns(header, where)
    if not columns:
        fix = f"its columns are {listed(header)}; it should be {FORMATS_THAT_DO}"
        raise UserInputError("no action unit in the file", where=where, fix=fix)
    surest = _surest_faces(rows[1:], header, columns, where)
    if not any(surest.values()):
        raise UserInputError("no row of the file has scores or codes", where=where)
    names = sorted(columns)
    scores = np.full((len(surest), len(names)), np.nan, dtype=np.float32)
    codes = np.zeros((len(surest), len(names)), dtype=np.uint8)
    for i, row in enumerate(surest.values()):
        if row is None:
            continue
        for k, name in enumerate(names):
            place = f"{where}, line {row.line}, {name}"
            scores[i, k], codes[i, k] = _cell(row.cells, columns[name], threshold, place)
    return AUFile(where, tuple(surest), AUTable(tuple(names), scores, codes))


def _rows(path: Path) -> list[_Row]:
    """Return the rows that are not blank, header first, with the lines they end in."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [_Row(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        place = f"{path}, line {reader.line_num}"
        raise UserInputError(f"no CSV: {error}", where=place, fix="mend its quotes and cells") from None


def _unit_columns(header: Sequence[str], where: str) -> dict[str, _Column]:
    """Return unit -> its columns; `_r` and `_intensity` are FACS intensities, `_c` and LibreFace's bare name codes."""
    bare: dict[str, int] = {}
    intensity: dict[str, int] = {}
    code: dict[str, int] = {}
    for k, text in enumerate(header):
        lower = text.lower()
        for suffix, kind in (("_r", intensity), ("_intensity", intensity), ("_c", code), ("", bare)):
            name = canonical_name(lower.removesuffix(suffix)) if lower.endswith(suffix) else None
            if name is not None:
                if name in kind:
                    raise _twice(name, header, kind[name], k, where)
                kind[name] = k
                break
    if not intensity and not code:
        return {name: _Column(score=k) for name, k in bare.items()}
    for name in bare.keys() & code.keys():
        raise _twice(name, header, bare[name], code[name], where)
    code = {**bare, **code}
    return {
        name: _Column(intensity.get(name), MAX_INTENSITY, code.get(name)) for name in intensity.keys() | code.keys()
    }


def _twice(name: str, header: Sequence[str], one: int, other: int, where: str) -> UserInputError:
    return UserInputError(f"two columns for {name}: {header[one]!r} and {header[other]!r}", where=where, fix="keep one")


def _surest_faces(
    rows: Sequence[_Row], header: Sequence[str], columns: Mapping[str, _Column], where: str
) -> dict[str, _Row | None]:
    """Return image -> its row (of several faces the most confident one; None without a face), as first seen."""
    lower = [name.lower() for name in header]
    image = next((lower.index(name) for name in IMAGE_COLUMNS if name in lower), None)
    if image is None:
        fix = f"add a column 'path' (also known: {', '.join(IMAGE_COLUMNS[1:])})"
        raise UserInputError("no column says which image a row belongs to", where=where, fix=fix)
    sure = next((lower.index(name) for name in CONFIDENCE_COLUMNS if name in lower), None)
    success = lower.index("success") if "success" in lower else None
    best: dict[str, _Row | None] = {}
    confidences: dict[str, float] = {}
    ties: dict[str, _Row] = {}
    for row in rows:
        place = f"{where}, line {row.line}"
        if len(row.cells) != len(header):
            raise UserInputError(f"{len(row.cells)} cells in a table of {len(header)} columns", where=place)
        name = plain_name(row.cells[image])
        if not name:
            raise UserInputError("a row without an image's name", where=place)
        if not _has_face(row.cells, columns, success, place):
            best.setdefault(name)
            continue
        confidence = 0.0 if sure is None else _number(row.cells[sure], f"{place}, {header[sure]}")
        if best.get(name) is None or confidence > confidences[name]:
            best[name], confidences[name] = row, confidence
            ties.pop(name, None)
        elif confidence == confidences[name]:
            ties.setdefault(name, row)
    for name, row in ties.items():
        what = f"two rows for image {name!r}" + ("" if sure is None else f" with the same {header[sure]}")
        fix = "keep one row an image" + (", or add a column 'confidence'" if sure is None else "")
        raise UserInputError(what, where=f"{where}, line {row.line}", fix=fix)
    return best


def _has_face(cells: Sequence[str], columns: Mapping[str, _Column], success: int | None, where: str) -> bool:
    if success is not None and not _code(cells[success], f"{where}, success"):
        return False
    used = {k for column in columns.values() for k in (column.score, column.code) if k is not None}
    return any(cells[k].strip().lower() not in NOTHING for k in used)


def _cell(row: Sequence[str], column: _Column, threshold: float, where: str) -> tuple[float, int]:
    score = code = None
    if column.score is not None:
        score = _number(row[column.score], where) / column.divisor
        if not 0 <= score <= 1:
            most = f"{column.divisor:g}"
            what = f"score {row[column.score].strip()} is outside 0..{most}"
            raise UserInputError(what, where=where, fix=f"scale the scores to 0..{most}")
    if column.code is not None:
        code = _code(row[column.code], where)
    if score is None:
        score = float(code or 0)
    return score, int(score >= threshold) if code is None else code


def _code(text: str, where: str) -> int:
    number = _number(text, where)
    if number not in (0, 1):
        raise UserInputError(f"code {text.strip()} is neither 0 nor 1", where=where)
    return int(number)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserInputError(f"{text.strip()!r} is not a number", where=where) from None
    if not math.isfinite(value):
        raise UserInputError(f"{text.strip()} is not a finite number", where=where)
    return value
