"""Faces that another tool has found: CSV files of py-feat or OpenFace, read instead of detecting.

py-feat writes one table (input, FaceRectX, FaceRectY, FaceRectWidth, FaceRectHeight, FaceScore, x_0.., y_0..); OpenFace
one file an image (confidence, success, x_0.., y_0.., no box) named like the image, so its folder is given. Rows of a
video (py-feat's `input` names one, OpenFace's file of a clip has a column `frame`) are its frames' (`match_frames`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fercore.au.match import frame_name, is_video, match_frames, match_rows, match_stems
from fercore.au.table import is_missing
from fercore.data.formats.reading.tables import csv_rows
from fercore.datasets.prepare.faces import Face, five_of_68
from fercore.errors import UserInputError
from fercore.files import no_file

RECTANGLE = ("facerectx", "facerecty", "facerectwidth", "facerectheight")
POINTS = [f"{axis}_{k}" for axis in "xy" for k in range(68)]
IMAGE_COLUMNS = ("input", "image", "path", "file", "filename")
FIX = "give a py-feat CSV, or the folder of OpenFace's CSV files"


def read_boxes(path: Path, keys: Sequence[str]) -> list[list[Face]]:
    """Return the faces of each sample; an empty list where the tool found none.

    Args:
        path: a CSV file of py-feat, or a folder of CSV files of OpenFace. keys: names of the samples.

    Raises:
        UserInputError: if it is neither, a number cannot be read (by line), or no row fits any sample.
    """
    by_image = read_faces(path)
    of_frames = {name.frame for name in by_image}
    if len(of_frames) > 1:
        what = "faces of images and of frames of a video"
        raise UserInputError(what, where=str(path), fix="give them apart")
    match = match_frames if of_frames == {True} else match_stems if path.is_dir() else match_rows
    rows = match(keys, [name.text for name in by_image], str(path))
    images = list(by_image)
    faces = [by_image[images[row]] if row >= 0 else [] for row in rows.tolist()]
    if not any(faces):
        raise UserInputError("no row fits an image of the dataset", where=str(path), fix="compare the names")
    return faces


def read_faces(path: Path) -> dict[Name, list[Face]]:
    """Return the faces of each image or frame that a table names.

    Raises:
        UserInputError: as `read_boxes`.
    """
    if path.is_dir():
        return _openface_folder(path)
    if path.is_file():
        return _pyfeat(path)
    raise no_file(path, "boxes", fix=FIX)


@dataclass(frozen=True)
class Name:
    """Whose faces some rows are: an image, or the frame of a clip."""

    text: str
    frame: bool = False


def _frame(file: str, row: dict[str, str], where: str) -> Name:
    return Name(frame_name(file, int(_numbers(row, ("frame",), where)[0])), frame=True)


def _pyfeat(path: Path) -> dict[Name, list[Face]]:
    faces: dict[Name, list[Face]] = defaultdict(list)
    for number, row in csv_rows(path, RECTANGLE, ["facescore"]):
        where = f"{path}, line {number}"
        image = next((row[column] for column in IMAGE_COLUMNS if row.get(column)), "")
        if not image:
            raise UserInputError("row without an image", where=where, fix=f"it needs a column {IMAGE_COLUMNS[0]!r}")
        name = _frame(image, row, where) if "frame" in row and is_video(image) else Name(image)
        if any(is_missing(row[column]) for column in RECTANGLE):
            faces[name] += []
            continue
        left, top, width, height = _numbers(row, RECTANGLE, where)
        score = _score(row, "facescore", where)
        faces[name].append(Face((left, top, left + width, top + height), score, _landmarks(row, where)))
    return dict(faces)


def _openface_folder(folder: Path) -> dict[Name, list[Face]]:
    files = sorted(folder.rglob("*.csv"))
    if not files:
        raise UserInputError("no CSV file in the folder", where=str(folder), fix=FIX)
    faces: dict[Name, list[Face]] = {}
    for file in files:
        faces |= _openface(file, file.relative_to(folder).with_suffix("").as_posix())
    return faces


def _openface(path: Path, stem: str) -> dict[Name, list[Face]]:
    """Return the faces of an image, or of the frames of a clip where there is a column `frame`."""
    faces: dict[Name, list[Face]] = defaultdict(list)
    for number, row in csv_rows(path, ["x_0", "y_0"], ["confidence", "success"]):
        where = f"{path}, line {number}"
        points = _points(row, where)
        score = _score(row, "confidence", where)
        name = _frame(path.name, row, where) if "frame" in row else Name(stem)
        # An entry without a face: the tool has looked at this image.
        faces[name] += []
        if points is None or row.get("success", "1") in ("0", "0.0"):
            continue
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        # The points begin at the brows: the forehead is a quarter of their height more.
        box = (float(left), float(top - (bottom - top) / 4), float(right), float(bottom))
        faces[name].append(Face(box, score, five_of_68(points)))
    return dict(faces)


def _score(row: dict[str, str], column: str, where: str) -> float:
    """Return how sure a face is; one of whom the table does not say it counts as sure."""
    return 1.0 if is_missing(row.get(column, "")) else _numbers(row, (column,), where)[0]


def _landmarks(row: dict[str, str], where: str) -> np.ndarray | None:
    points = _points(row, where)
    return None if points is None else five_of_68(points)


def _points(row: dict[str, str], where: str) -> np.ndarray | None:
    if any(is_missing(row.get(name, "")) for name in POINTS):
        return None
    # All x stand before all y.
    return np.array(_numbers(row, POINTS, where)).reshape(2, 68).T


def _numbers(row: dict[str, str], names: Sequence[str], where: str) -> list[float]:
    try:
        values = [float(row[name]) for name in names]
    except (ValueError, KeyError):
        raise UserInputError(f"{', '.join(names[:4])}: not numbers", where=where) from None
    if not np.isfinite(values).all():
        raise UserInputError(f"{', '.join(names[:4])}: not finite", where=where)
    return values
