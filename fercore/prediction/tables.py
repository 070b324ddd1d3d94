"""Tables of predictions: CSV, JSON lines or parquet, in the columns of fercore, py-feat or OpenFace 3.

Rows are appended as they are made, those of a frame at once, so that an interrupted table is readable and goes on.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from fercore.documents import CsvWriter, parquet_package, plain_cell
from fercore.errors import UserInputError, did_you_mean, reason_of
from fercore.files import open_regular
from fercore.writing import cut, open_present, refuse_taken, whole, write_fault

Cell: TypeAlias = str | int | float | None
Columns: TypeAlias = Literal["fercore", "pyfeat", "openface3"]
SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
PYFEAT: Final = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
"""Emotions in py-feat's order; a class that it does not know comes after its columns."""
OPENFACE3: Final = {
    "neutral": "Neutral", "happiness": "Happy", "sadness": "Sad", "surprise": "Surprise", "fear": "Fear",
    "disgust": "Disgust", "anger": "Anger", "contempt": "Contempt",
}  # fmt: skip
"""Class -> OpenFace 3.0's name for it, in its order."""
NAMES: Final[Mapping[Columns, tuple[str, ...]]] = {
    "fercore": ("image", "frame", "face", "time"),
    "pyfeat": ("input", "frame", "face", "time"),
    "openface3": ("input", "frame", "face_id", "timestamp"),
}
BOXES: Final[Mapping[Columns, tuple[str, ...]]] = {
    "fercore": ("left", "top", "right", "bottom"),
    "pyfeat": ("FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"),
    "openface3": ("x_min", "y_min", "x_max", "y_max"),
}
AGAIN = "leave --resume out and choose another --out"


@dataclass(frozen=True)
class Row:
    """What is said of one face, or why nothing is said of a frame.

    Attributes:
        input, part, number, time: of the frame, as `Frame`. face: its number; None where there is none.
        box: left, top, right, bottom in pixels; of a picture that is a face, the picture. score: the detector's.
        probs: by class; empty where there is no face. prediction: the likeliest class. refused: why there is none.
    """

    input: str
    part: str = ""
    number: int | None = None
    time: float | None = None
    face: int | None = None
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    probs: tuple[float, ...] = ()
    prediction: str = ""
    refused: str = ""


class Layout:
    """One set of columns.

    Args:
        kind: whose columns. classes: of the model, in the order of a row's probabilities.

    Attributes:
        columns: name -> type of its cells, in order. names: columns of the input, its frame, its face and its time.
    """

    def __init__(self, kind: Columns, classes: Sequence[str]) -> None:
        self.kind, self.classes = kind, tuple(classes)
        self.names = NAMES[kind]
        self.columns: dict[str, type] = {
            "fercore": self._fercore,
            "pyfeat": self._pyfeat,
            "openface3": self._openface3,
        }[kind]()

    def _fercore(self) -> dict[str, type]:
        shares = dict.fromkeys(self.classes, float)
        head: dict[str, type] = {"image": str, "face": int, "part": str, "prediction": str, "confidence": float}
        tail: dict[str, type] = {"refused": str, "frame": int, "time": float}
        return {**head, **shares, **tail, **dict.fromkeys((*BOXES["fercore"], "score"), float)}

    def _pyfeat(self) -> dict[str, type]:
        numbers = [*BOXES["pyfeat"], "FaceScore", *PYFEAT, *(name for name in self.classes if name not in PYFEAT)]
        return {"input": str, "frame": int, **dict.fromkeys(numbers, float), "face": int, "time": float, "refused": str}

    def _openface3(self) -> dict[str, type]:
        head: dict[str, type] = {"input": str, "frame": int, "face_id": int, "timestamp": float}
        numbers = ["confidence", *BOXES["openface3"]]
        others = [name for name in self.classes if name not in OPENFACE3]
        shares = dict.fromkeys([*OPENFACE3.values(), *others], float)
        return {**head, **dict.fromkeys(numbers, float), "success": int, "emotion": str, **shares, "refused": str}

    def cells(self, row: Row) -> dict[str, Cell]:
        """Return the cells of a row; None where a row has nothing."""
        shares: dict[str, Cell] = {**dict.fromkeys(self.classes), **dict(zip(self.classes, row.probs, strict=False))}
        make = {"fercore": self._as_fercore, "pyfeat": self._as_pyfeat, "openface3": self._as_openface3}[self.kind]
        filled = {**make(row, shares), "refused": row.refused}
        return {name: filled.get(name) for name in self.columns}

    @staticmethod
    def _as_fercore(row: Row, shares: Mapping[str, Cell]) -> dict[str, Cell]:
        return {
            "image": row.input,
            "face": row.face,
            "part": row.part,
            "prediction": row.prediction or None,
            "confidence": max(row.probs, default=None),
            **shares,
            "frame": row.number,
            "time": row.time,
            **dict(zip(BOXES["fercore"], row.box or (), strict=False)),
            "score": row.score,
        }

    @staticmethod
    def _as_pyfeat(row: Row, shares: Mapping[str, Cell]) -> dict[str, Cell]:
        box = () if row.box is None else (*row.box[:2], row.box[2] - row.box[0], row.box[3] - row.box[1])
        return {
            "input": row.input,
            "frame": row.number or 0,  # py-feat gives images one, too
            **dict(zip(BOXES["pyfeat"], box, strict=False)),
            "FaceScore": row.score,
            **shares,
            "face": row.face,
            "time": row.time,
        }

    @staticmethod
    def _as_openface3(row: Row, shares: Mapping[str, Cell]) -> dict[str, Cell]:
        return {
            "input": row.input,
            "frame": row.number or 0,
            "face_id": row.face,
            "timestamp": row.time,
            "confidence": row.score,
            **dict(zip(BOXES["openface3"], row.box or (), strict=False)),
            "success": int(bool(row.probs)),
            "emotion": OPENFACE3.get(row.prediction, row.prediction) or None,
            **{OPENFACE3.get(name, name): share for name, share in shares.items()},
        }

    def row(self, cells: Mapping[str, Any]) -> Row:
        """Return the row that `cells` were made of, without the detector's score.

        Raises:
            KeyError: if a column is missing. ValueError: if a cell cannot be read.
        """
        names, numbers = self.names, BOXES[self.kind]

        def number(name: str) -> float | None:
            value = cells[name]
            return None if value is None or value == "" else float(value)

        frame, face = number(names[1]), number(names[2])
        shares = [number(OPENFACE3.get(name, name) if self.kind == "openface3" else name) for name in self.classes]
        a, b, c, d = (number(name) for name in numbers)
        box = None
        if a is not None and b is not None and c is not None and d is not None:
            box = (a, b, a + c, b + d) if self.kind == "pyfeat" else (a, b, c, d)
        probs = tuple(share for share in shares if share is not None)
        return Row(
            str(cells[names[0]]),
            number=None if frame is None else int(frame),
            time=number(names[3]),
            face=None if face is None else int(face),
            box=box,
            probs=probs,
            prediction=self.classes[probs.index(max(probs))] if probs else "",
            refused=str(cells["refused"] or ""),
        )


def layout_of(kind: str, classes: Sequence[str]) -> Layout:
    """Return a set of columns by name.

    Raises:
        UserInputError: if there is none of that name.
    """
    known: tuple[Columns, ...] = get_args(Columns)
    for name in known:
        if name == kind:
            return Layout(name, classes)
    raise UserInputError(f"unknown columns {kind!r}", where="--columns", fix=did_you_mean(kind, known))


def check_out(path: Path, *, resume: bool) -> None:
    """Make sure, before long work, that a table can be written.

    Raises:
        UserInputError: for another suffix, a file that is there (without `resume`), or a package that is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserInputError(f"unknown table {path.suffix!r}", where=str(path), fix="name it .csv, .jsonl or .parquet")
    if path.suffix.lower() == ".parquet":
        parquet_package()
    if not resume:
        refuse_taken(path)


class TableWriter:
    """Appends rows to a table; closing it makes a parquet table of the lines that were kept beside it until then.

    Args:
        path: the table. layout: its columns. resume: whether a table that is there goes on; rows of its last frame,
            which may be missing some, are taken off first.

    Raises:
        UserInputError: if the table that is there cannot be read or has other columns, or none can be written.
    """

    def __init__(self, path: Path, layout: Layout, *, resume: bool = False) -> None:
        self.path, self.layout = path, layout
        kind = path.suffix.lower()
        self._parquet = kind == ".parquet"
        self._lines = path.with_name(f".{path.name}.jsonl") if self._parquet else path
        self._write: Callable[[Iterable[Mapping[str, Cell]]], str] = self._csv if kind == ".csv" else _json
        if resume and self._parquet and path.exists() and not self._lines.exists():
            self._unpack()
        if not resume and self._parquet:
            self._lines.unlink(missing_ok=True)
        if self._lines.exists():
            self._rewind()
        try:
            self._file = os.fdopen(open_present(self._lines, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb", buffering=0)
        except OSError as error:
            raise write_fault(error, path) from None
        if kind == ".csv" and not self._lines.stat().st_size:
            self._append(self._head())

    def write(self, rows: Iterable[Row]) -> None:
        """Append the rows of some frames, whole.

        Raises:
            WriteError: if they cannot be written; the table is as it was before.
        """
        self._append(self._write(self.layout.cells(row) for row in rows))

    def rows(self) -> Iterator[Row]:
        """Yield the rows that are in the table.

        Raises:
            UserInputError: if it cannot be read.
        """
        for _, cells in self._read():
            if cells:
                try:
                    yield self.layout.row(cells)
                except (ValueError, KeyError) as error:
                    raise self._unreadable(error) from None

    def close(self) -> None:
        """Close the file; a parquet table takes its name.

        Raises:
            WriteError: if it cannot be written; the lines stay beside it.
        """
        self._file.close()
        if self._parquet:
            self._pack()

    def drop_lines(self) -> None:
        """Remove what a finished parquet table was made of."""
        if self._parquet:
            self._lines.unlink(missing_ok=True)

    def _append(self, text: str) -> None:
        size = os.fstat(self._file.fileno()).st_size
        content = text.encode("utf-8", "backslashreplace")
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            with suppress(OSError):  # half a row is of no use to anybody
                os.ftruncate(self._file.fileno(), size)
            raise write_fault(error, self.path) from None

    def _head(self) -> str:
        text = io.StringIO()
        CsvWriter(text).writerow(self.layout.columns)
        return text.getvalue()

    def _csv(self, rows: Iterable[Mapping[str, Cell]]) -> str:
        text = io.StringIO()
        writer = CsvWriter(text)
        for cells in rows:
            writer.writerow([_shown(cells[name]) for name in self.layout.columns])
        return text.getvalue()

    def _read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (byte behind it, cells) of the whole rows that are there; of the head of a CSV no cells."""
        try:
            yield from _lines_of(self._lines, self.layout, json_=self._write is _json)
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> UserInputError:
        return UserInputError(f"the table cannot be gone on with: {reason_of(error)}", where=str(self.path), fix=AGAIN)

    def _rewind(self) -> None:
        """Cut off the rows of the last frame, and a row that was cut short."""
        last: Any = None
        begin = end = 0
        for after, cells in self._read():
            frame = cells.get(self.layout.names[0]), cells.get(self.layout.names[1])
            if cells and frame != last:
                last, begin = frame, end
            elif not cells:
                begin = after
            end = after
        cut(self._lines, begin)

    def _pack(self) -> None:
        """Write the parquet table, a batch of rows at a time."""
        arrow = parquet_package()
        kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
        schema = arrow.schema([(name, kinds[kind]) for name, kind in self.layout.columns.items()])
        with whole(self.path) as file, arrow.parquet.ParquetWriter(file, schema) as writer:
            cells = (cells for _, cells in self._read())
            while rows := list(islice(cells, 10_000)):
                writer.write_table(arrow.Table.from_pylist(rows, schema))

    def _unpack(self) -> None:
        """Write the lines of a finished parquet table again."""
        arrow = parquet_package()
        try:
            with open_regular(self.path, follow=False) as file, whole(self._lines, "w") as lines:
                for batch in arrow.parquet.ParquetFile(file).iter_batches():
                    lines.write(_json(batch.to_pylist()))
        except (OSError, ValueError) as error:
            raise UserInputError(f"the table cannot be read: {error}", where=str(self.path), fix=AGAIN) from None


def finished_rows(path: Path, layout: Layout) -> Iterator[Row]:
    """Yield the rows of a finished table.

    Raises:
        UserInputError: if it cannot be read or has other columns.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            with open_regular(path, follow=False) as file:
                for batch in parquet_package(path).parquet.ParquetFile(file).iter_batches():
                    yield from map(layout.row, batch.to_pylist())
        else:
            yield from (layout.row(cells) for _, cells in _lines_of(path, layout, json_=kind == ".jsonl") if cells)
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise UserInputError(f"the table cannot be read: {reason_of(error)}", where=str(path), fix=AGAIN) from None


def _lines_of(path: Path, layout: Layout, *, json_: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (byte behind it, cells) of the whole rows of a CSV or JSON-lines file; of a CSV's head no cells."""
    names, end = list(layout.columns), 0
    with open_regular(path, follow=False) as file:
        for raw in _records(file, quoted=not json_):
            text = raw.decode("utf-8")
            if json_:
                cells = json.loads(text)
                columns = list(cells)
            else:
                values = [plain_cell(cell) for cell in next(csv.reader([text], strict=True))]
                columns = names if end else values
                cells = dict(zip(names, values, strict=True)) if end else {}
            if columns != names:
                raise ValueError("it has other columns")
            end += len(raw)
            yield end, cells


def _json(rows: Iterable[Mapping[str, Cell]]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


def _shown(cell: Cell) -> str | int:
    return "" if cell is None else f"{cell:.6f}" if isinstance(cell, float) else cell


def _records(file: io.BufferedReader, *, quoted: bool) -> Iterator[bytes]:
    """Yield whole lines; where names may stand in quotes, those may hold ends of lines."""
    held = b""
    for line in file:
        held += line
        if line.endswith(b"\n") and not (quoted and held.count(b'"') % 2):
            yield held
            held = b""
