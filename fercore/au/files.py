"""Action-unit files: OpenFace 2, py-feat, LibreFace and plain tables, recognised by their header.

| file | image column | scores | codes |
|---|---|---|---|
| OpenFace 2 (`AU01_r`, `AU01_c`) | see below | `_r` / 5 | `_c` as it is |
| LibreFace (`au_1`, `au_1_intensity`) | see below | intensity / 5 | `au_1` as it is |
| py-feat Fex (`AU01`, `FaceScore`, `input`) | `input` | as they are | scores >= threshold |
| plain (`path`, `AU01`, ...) | `path` | as they are | scores >= threshold |

The image stands in the first of the columns path, image, file, filename, image_path, input, name. Where that names a
video, or is missing beside a column `frame` (OpenFace's table of one clip, named like it), rows are frames. A folder
holds one such file an image, named like the image (OpenFace's processed/), or one a clip.

A unit with a code but no intensity takes the code for its score; one with an intensity but no code is present from the
threshold on; one with neither in a row (an empty cell, NaN, OpenFace's -nan(ind)) is not shown by that image, and such
cells are counted. Of several faces in an image the most confident counts (columns confidence, FaceScore); without such
a column, or with the same confidence, they are an error. A row without a face (OpenFace's success = 0, or no score at
all) gives its image no units: what is known of it is NaN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from fercore.au.match import frame_name, is_video, plain_name
from fercore.au.table import AUTable, canonical_name, is_missing
from fercore.data.formats.reading.columns import refuse_nearly_known
from fercore.data.formats.reading.scan import listed
from fercore.data.formats.reading.tables import csv_table
from fercore.documents import plain_cell
from fercore.errors import UserInputError
from fercore.files import no_file

IMAGE_COLUMNS = ("path", "image", "file", "filename", "image_path", "input", "name")
CONFIDENCE_COLUMNS = ("confidence", "facescore")
MAX_INTENSITY = 5.0
NEARLY = re.compile(r"au[ _-]?[0-9]")
"""How the names of columns begin that are units, or meant to be."""

FORMATS_THAT_DO = (
    "OpenFace 2 (AU01_r, AU01_c), py-feat Fex (input, AU01), LibreFace (au_1, au_1_intensity) or path,AU01,..."
)


class Naming(Enum):
    """What the names of a file's rows are: of images, of images without their suffix, or of frames of clips."""

    IMAGES = "images"
    STEMS = "images without suffix"
    FRAMES = "frames of a video"


@dataclass(frozen=True)
class _Column:
    """Where a unit's numbers stand: column of its score, what divides it, and column of its code."""

    score: int | None = None
    divisor: float = 1.0
    code: int | None = None


@dataclass(frozen=True)
class _Row:
    place: str
    cells: Sequence[str]
    image: str = ""


@dataclass(frozen=True)
class AUFile:
    """An action-unit file: image names and their units, image by image; NaN for an image in which no face was found.

    Attributes:
        path: the file, or the folder of files.
        images: names, of the kind `naming`.
        table: units of each.
        blanks: int64[n], cells of each image that hold no number though others do.
        naming: what the names are. first_frame: number that frames of clips are counted from.
    """

    path: str
    images: tuple[str, ...]
    table: AUTable
    blanks: np.ndarray
    naming: Naming
    first_frame: int = 0


def read_au_file(path: Path, threshold: float) -> AUFile:
    """Read an action-unit table, or a folder of them.

    Args:
        path: a CSV file, or a folder of such. threshold: scores from here on are present, where the file has no codes
            of its own.

    Raises:
        UserInputError: if it cannot be read, names no image or no unit, or holds a score outside 0..1.
    """
    where = str(path)
    if not path.is_file() and not path.is_dir():
        raise no_file(path, "action-unit file", fix=f"give a CSV: {FORMATS_THAT_DO}")
    header, rows, naming = _read_folder(path) if path.is_dir() else _read_table(path, "")
    if not rows:
        raise UserInputError("action-unit file without rows", where=where, fix=f"it should be {FORMATS_THAT_DO}")
    columns = _unit_columns(header, where)
    surest = _surest_faces(rows, header, columns, where)
    faces = [row for row in surest.values() if row is not None]
    if not faces:
        raise UserInputError("no row of the file has scores or codes", where=where)
    # A unit without a number in any row was not looked for.
    names = sorted(name for name in columns if any(_has_number(row.cells, [columns[name]]) for row in faces))
    scores = np.full((len(surest), len(names)), np.nan, dtype=np.float32)
    codes = np.zeros((len(surest), len(names)), dtype=np.uint8)
    blanks = np.zeros(len(surest), dtype=np.int64)
    for i, row in enumerate(surest.values()):
        for k, name in enumerate(names if row is not None else ()):
            assert row is not None
            scores[i, k], codes[i, k], blank = _cell(row.cells, columns[name], threshold, f"{row.place}, {name}")
            blanks[i] += blank
    # OpenFace, which names no clip in its rows, counts frames from 1; py-feat, which does, from 0.
    own = naming is Naming.FRAMES and not any(name.lower() in IMAGE_COLUMNS for name in header)
    first = int(own and not any(image.endswith("#0") for image in surest))
    return AUFile(where, tuple(surest), AUTable(tuple(names), scores, codes), blanks, naming, first)


def _read_folder(folder: Path) -> tuple[list[str], list[_Row], Naming]:
    """Return header, rows and naming of the tables in a folder and the folders in it, which must have one header."""
    files = sorted(folder.rglob("*.csv"))
    if not files:
        raise UserInputError("no CSV file in the folder", where=str(folder), fix="give OpenFace's folder processed/")
    first: tuple[list[str], Naming] | None = None
    every: list[_Row] = []
    for file in files:
        header, rows, naming = _read_table(file, file.relative_to(folder).with_suffix("").as_posix())
        first = first or (header, naming)
        if (header, naming) != first:
            fix = "keep files of one kind in the folder"
            raise UserInputError(f"columns other than those of {files[0].name}", where=str(file), fix=fix)
        every += rows
    assert first is not None
    return first[0], every, first[1]


def _read_table(path: Path, stem: str) -> tuple[list[str], list[_Row], Naming]:
    """Return header, rows and naming of one table; `stem` names its image where it has no column for that."""
    header, lines = csv_table(path)
    rows = [_Row(f"{path}, line {number}", cells) for number, cells in lines]
    # Before anything else is asked of the table: with no units in it, it is another kind of file.
    if header and not _unit_columns(header, str(path)):
        fix = f"its columns are {listed(header)}; it should be {FORMATS_THAT_DO}"
        raise UserInputError("no action unit in the file", where=str(path), fix=fix)
    lower = [name.lower() for name in header]
    sure = [name for name in CONFIDENCE_COLUMNS if name in lower] or CONFIDENCE_COLUMNS
    refuse_nearly_known(header, (), (*sure, "success"), where=f"{path}, line 1")
    image = next((lower.index(name) for name in IMAGE_COLUMNS if name in lower), None)
    frame = lower.index("frame") if "frame" in lower else None
    if frame is not None and (image is None or _of_videos(row.cells[image] for row in rows)):
        named = [_Row(row.place, row.cells, _frame(row, image, frame, path)) for row in rows]
        return header, named, Naming.FRAMES
    if image is None and stem:
        # OpenFace writes a file without rows for an image without a face.
        nobody = [_Row(str(path), [""] * len(header), stem)]
        return header, [_Row(row.place, row.cells, stem) for row in rows] or nobody, Naming.STEMS
    if image is None:
        fix = f"add a column 'path' (also known: {', '.join(IMAGE_COLUMNS[1:])})"
        raise UserInputError("no column says which image a row belongs to", where=str(path), fix=fix)
    named = [_Row(row.place, row.cells, plain_name(plain_cell(row.cells[image]))) for row in rows]
    if nameless := next((row for row in named if not row.image), None):
        raise UserInputError("a row without an image's name", where=nameless.place)
    return header, named, Naming.IMAGES


def _of_videos(names: Iterable[str]) -> bool:
    return {is_video(name) for name in names} == {True}


def _frame(row: _Row, image: int | None, frame: int, path: Path) -> str:
    clip = path.name if image is None else plain_cell(row.cells[image])
    number = _number(row.cells[frame], f"{row.place}, frame")
    if number < 0 or number != int(number):
        raise UserInputError(f"frame {row.cells[frame]} is no number of a frame", where=row.place)
    return frame_name(clip, int(number))


def _unit_columns(header: Sequence[str], where: str) -> dict[str, _Column]:
    """Return unit -> its columns; `_r` and `_intensity` are FACS intensities, `_c` and LibreFace's bare name codes."""
    bare: dict[str, int] = {}
    intensity: dict[str, int] = {}
    code: dict[str, int] = {}
    for k, text in enumerate(header):
        lower = text.lower()
        # Longer endings first: the empty one fits every column.
        for suffix, kind in (("_r", intensity), ("_intensity", intensity), ("_c", code), ("", bare)):
            name = canonical_name(lower.removesuffix(suffix)) if lower.endswith(suffix) else None
            if name is not None:
                if name in kind:
                    raise _twice(name, header, kind[name], k, where)
                kind[name] = k
                break
        else:
            if NEARLY.match(lower):
                fix = "call it AU12 (0 to 1), AU12_r (0 to 5) or AU12_c (0 or 1), with its number, or remove it"
                raise UserInputError(f"column {text!r} is nearly an action unit", where=where, fix=fix)
    # A bare name is a score (py-feat) unless the file has
    # intensities or codes of its own: it then is a code (LibreFace).
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
    sure = next((lower.index(name) for name in CONFIDENCE_COLUMNS if name in lower), None)
    success = lower.index("success") if "success" in lower else None
    best: dict[str, _Row | None] = {}
    confidences: dict[str, float] = {}
    ties: dict[str, _Row] = {}
    for row in rows:
        name = row.image
        if not _has_face(row, columns, success):
            # None, so that an image without a face keeps its place among those the file speaks of.
            best.setdefault(name)
            continue
        # A confidence that is no number is none.
        given = sure is not None and not is_missing(row.cells[sure])
        confidence = _number(row.cells[sure], f"{row.place}, {header[sure]}") if sure is not None and given else 0.0
        if best.get(name) is None or confidence > confidences[name]:
            best[name], confidences[name] = row, confidence
            # A surer face than both settles an earlier tie.
            ties.pop(name, None)
        elif confidence == confidences[name]:
            ties.setdefault(name, row)
    for name, row in ties.items():
        what = f"two rows for image {name!r}" + ("" if sure is None else f" with the same {header[sure]}")
        fix = "keep one row an image" + (", or add a column 'confidence'" if sure is None else "")
        raise UserInputError(what, where=row.place, fix=fix)
    return best


def _has_face(row: _Row, columns: Mapping[str, _Column], success: int | None) -> bool:
    if (
        success is not None
        and not is_missing(row.cells[success])
        and not _code(row.cells[success], f"{row.place}, success")
    ):
        return False
    return _has_number(row.cells, columns.values())


def _has_number(cells: Sequence[str], columns: Iterable[_Column]) -> bool:
    used = {k for column in columns for k in (column.score, column.code) if k is not None}
    return any(not is_missing(cells[k]) for k in used)


def _cell(row: Sequence[str], column: _Column, threshold: float, where: str) -> tuple[float, int, int]:
    """Return a unit's score and code, and how many of its cells hold no number."""
    score = code = None
    blanks = sum(is_missing(row[k]) for k in (column.score, column.code) if k is not None)
    if column.score is not None and not is_missing(row[column.score]):
        score = _number(row[column.score], where) / column.divisor
        if not 0 <= score <= 1:
            most = f"{column.divisor:g}"
            what = f"score {row[column.score]} is outside 0..{most}"
            raise UserInputError(what, where=where, fix=f"scale the scores to 0..{most}")
    if column.code is not None and not is_missing(row[column.code]):
        code = _code(row[column.code], where)
    if score is None:
        score = float(code or 0)
    return score, int(score >= threshold) if code is None else code, blanks


def _code(text: str, where: str) -> int:
    number = _number(text, where)
    if number not in (0, 1):
        raise UserInputError(f"code {text} is neither 0 nor 1", where=where)
    return int(number)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserInputError(f"{text!r} is not a number", where=where) from None
    if not math.isfinite(value):
        raise UserInputError(f"{text} is not a finite number", where=where)
    return value
