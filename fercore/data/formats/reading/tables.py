"""CSV files of any dialect, read line by line with the line's number at hand.

Columns are set apart by what divides the first line into most of them: commas, semicolons or tabs. Cells may stand in
quotes; encodings are those of `read_text`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fercore.data.formats.reading.columns import refuse_nearly_known
from fercore.data.formats.reading.scan import Rows, listed, read_text
from fercore.documents import plain_cell
from fercore.errors import UserInputError
from fercore.terminal import counted

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}

Line = tuple[int, list[str]]
"""Its number, and its cells without blanks around them."""


def csv_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = (), rows: Rows | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV file; column names are lower-cased.

    Args:
        path: the file. needed, optional: columns that are read. rows: keeps the names of the others.

    Raises:
        UserInputError: as `csv_table` and `refuse_nearly_known`, or if a needed column is missing.
    """
    header, lines = csv_table(path)
    # Enough rows to see what a column holds; a table of millions is not read twice.
    head, where = list(islice(lines, 1000)), f"{path}, line 1"
    refuse_nearly_known(header, [cells for _, cells in head], [*needed, *optional], where=where)
    lower = [name.lower() for name in header]
    missing = [name for name in needed if name not in lower]
    if missing:
        fix = f"the first line must name the columns {', '.join(needed)}"
        among = f" among {listed(header)}" if header else ""
        raise UserInputError(f"no column {missing[0]!r}{among}", where=where, fix=fix)
    if rows is not None:
        rows.unread += [name for name in header if name.lower() not in (*needed, *optional)]
    for number, cells in chain(head, lines):
        yield number, dict(zip(lower, map(plain_cell, cells), strict=True))


def csv_table(path: Path) -> tuple[list[str], Iterator[Line]]:
    """Return the header of a CSV file, and the lines below it.

    Raises:
        UserInputError: as `csv_lines`, or for a line of more or fewer cells than the header.
    """
    reader = _open(path)
    lines = _lines(reader, path)
    _, header = next(lines, (0, []))
    return header, _as_wide(lines, len(header), DELIMITERS[reader.dialect.delimiter], path)


def csv_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a CSV file that are not blank.

    Raises:
        UserInputError: if it is no text, or a quote is never closed.
    """
    return _lines(_open(path), path)


def delimiter_of(line: str) -> str:
    """Return what sets the columns apart, by the first line of a table."""
    # The csv module raises for longer cells, and one such may stand in the first line of a file that is no table.
    first = line[: csv.field_size_limit()].splitlines()[:1]
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader(first, delimiter=mark, skipinitialspace=True), [])))


def _open(path: Path) -> Any:
    text = read_text(path)
    first = next((line for line in text.split("\n") if line.strip()), "")
    # strict: an unclosed quote would otherwise take the rest of the file for one cell.
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(first), skipinitialspace=True, strict=True)


def _lines(reader: Any, path: Path) -> Iterator[Line]:
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserInputError(f"not valid CSV: {error}", where=f"{path}, line {reader.line_num}") from None


def _as_wide(lines: Iterator[Line], width: int, marks: str, path: Path) -> Iterator[Line]:
    for number, cells in lines:
        if len(cells) != width:
            what = f"row with {counted(len(cells), 'cell')} under {width} columns"
            fix = f"write every cell; an unknown one stays empty between its {marks}"
            if len(cells) > width:
                fix = f"quote cells that hold {marks}"
            raise UserInputError(what, where=f"{path}, line {number}", fix=fix)
        yield number, cells
