"""`fer2013`: the native CSV, emotion,pixels,Usage: 48x48 grey values in one cell.

Training is the training part; `test=` says what the test part is: private (PrivateTest, the default), public
(PublicTest) or both. The other one stays unused. A folder that holds fer2013.csv may be given instead of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fercore.data.formats.reading.codes import labels_of, whole_number
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, user_path
from fercore.data.formats.reading.tables import delimiter_of
from fercore.data.images.readers import ArrayReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError
from fercore.files import open_limited
from fercore.terminal import counted

SIDE = 48
USAGES = ("training", "publictest", "privatetest")
TESTS: dict[str, tuple[str, ...]] = {
    "private": ("privatetest",),
    "public": ("publictest",),
    "both": ("publictest", "privatetest"),
}
BLANK, ZERO, NINE = 32, 48, 57


def scan(spec: DomainSpec) -> Scan:
    """Read fer2013.csv.

    Raises:
        UserInputError: for a missing file or column, or a row that is not a label, 2,304 grey values and a usage.
    """
    path = csv_file(spec.path, "fer2013.csv", spec.where)
    tests = TESTS[spec.choice("test", tuple(TESTS), "private")]
    rows, images, labels = Rows(), bytearray(), labels_of(spec, "fer2013")
    for number, emotion, pixels, usage in native_rows(path):
        split = "train" if usage == "training" else "test" if usage in tests else ""
        if not split:
            rows.skipped[f"usage {usage}"] += 1
        elif (label := labels.find(str(emotion), rows)) is not None:
            rows.add(f"{path.name}#{number}", label, split=split)
            images += parse_pixels(pixels, f"{path}, line {number}").tobytes()
    labels.refuse_guess(rows, str(path))
    not_empty(rows, str(path), "check its Usage column, and ?test=")
    return Scan(rows, ArrayReader(np.frombuffer(images, dtype=np.uint8).reshape(-1, SIDE, SIDE)))


def csv_file(text: str, name: str, where: str) -> Path:
    """Return the CSV file a spec means: the path itself, or the file `name` in that folder.

    Raises:
        UserInputError: if it is not there.
    """
    path = user_path(text)
    return existing(str(path / name) if os.path.isdir(path) else text, folder=False, where=where)


def native_rows(path: Path) -> Iterator[tuple[int, int, bytes, str]]:
    """Yield (line number, emotion, pixel text, lower-case usage) of fer2013.csv; the pixels are not parsed yet.

    Raises:
        UserInputError: for a missing column or a bad row; names the line.
    """
    try:
        # Bytes, split by hand: of some 300 MB of digits nothing becomes text.
        with open_limited(path) as file:
            # Spreadsheets write a byte order mark.
            first = file.readline().removeprefix(b"\xef\xbb\xbf")
            if b"\0" in first:
                raise UserInputError("not UTF-8 text: it holds NUL characters", where=str(path), fix="save it as UTF-8")
            mark = delimiter_of(first.decode("ascii", "replace")).encode()
            header = _cells(first, mark)
            at = _columns([name.decode("ascii", "replace").lower() for name in header], path)
            for number, line in enumerate(file, start=2):
                cells = _cells(line, mark)
                if cells != [b""]:
                    yield _parse_row(cells, len(header), at, number, path)
    except OSError as error:
        raise UserInputError(f"cannot be read: {error.strerror}", where=str(path)) from None


def parse_pixels(text: bytes, where: str) -> np.ndarray:
    """Return uint8[48,48] from 2,304 numbers separated by single blanks.

    Raises:
        UserInputError: if there are more or fewer, or one is no grey value.
    """
    # A blank on both sides: every number then lies between two blanks, whose distance is its length.
    data = np.frombuffer(b" " + text + b" ", dtype=np.uint8)
    blanks = np.flatnonzero(data == BLANK)
    size = np.diff(blanks) - 1
    if size.size and size.min() < 1:
        # Slower, for the rare file with double blanks or other white space.
        data = np.frombuffer(b" " + b" ".join(text.split()) + b" ", dtype=np.uint8)
        blanks = np.flatnonzero(data == BLANK)
        size = np.diff(blanks) - 1
    if size.size != SIDE * SIDE:
        raise UserInputError(f"{size.size} pixels instead of {SIDE * SIDE}", where=where)
    wrong = (data != BLANK) & ((data < ZERO) | (data > NINE))
    end = blanks[1:]
    # int16: three digits reach 999 before the check refuses them.
    digits = data.astype(np.int16) - ZERO
    # Ones, tens and hundreds at fixed places before each blank; a shorter number multiplies what stands there by zero.
    value = digits[end - 1] + 10 * (size > 1) * digits[end - 2] + 100 * (size > 2) * digits[np.maximum(end - 3, 0)]
    if wrong.any() or size.max() > 3 or value.max() > 255:
        raise UserInputError("pixels are not numbers from 0 to 255", where=where)
    image: np.ndarray = value.astype(np.uint8)
    return image.reshape(SIDE, SIDE)


def _cells(line: bytes, mark: bytes) -> list[bytes]:
    return [cell.strip().strip(b'"') for cell in line.strip().split(mark)]


def _columns(header: list[str], path: Path) -> tuple[int, int, int]:
    for name in ("emotion", "pixels", "usage"):
        if name not in header:
            fix = "the first line must be emotion,pixels,Usage"
            raise UserInputError(f"no column {name!r}", where=f"{path}, line 1", fix=fix)
    return header.index("emotion"), header.index("pixels"), header.index("usage")


def _parse_row(
    cells: list[bytes], width: int, at: tuple[int, int, int], number: int, path: Path
) -> tuple[int, int, bytes, str]:
    where = f"{path}, line {number}"
    if len(cells) != width:
        raise UserInputError(f"row with {counted(len(cells), 'cell')} instead of {width}", where=where)
    emotion, pixels, usage = (cells[i] for i in at)
    label = whole_number(emotion.decode("utf-8", "replace"))
    if label is None or label < 0:
        raise UserInputError(f"emotion {_show(emotion)} is not a number from 0 to 6", where=where)
    name = usage.decode("ascii", "replace").lower()
    if name not in USAGES:
        fix = "known: Training, PublicTest, PrivateTest"
        raise UserInputError(f"unknown usage {_show(usage)}", where=where, fix=fix)
    return number, label, pixels, name


def _show(cell: bytes) -> str:
    return repr(cell[:20].decode("utf-8", "replace"))
