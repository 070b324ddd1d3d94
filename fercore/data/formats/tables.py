"""CSV files with a header, read line by line with the line's number at hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from fercore.data.formats.scan import read_text
from fercore.documents import plain_cell
from fercore.errors import UserInputError


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV file; column names are lower-cased and stripped.

    Raises:
        UserInputError: if a needed column is missing, a row has more or fewer cells, or a quote is never closed.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in needed if name not in header]
        if missing:
            fix = f"the first line must name the columns {', '.join(needed)}"
            raise UserInputError(f"no column {missing[0]!r}", where=f"{path}, line 1", fix=fix)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, _row(header, cells, f"{path}, line {reader.line_num}")
    except csv.Error as error:
        raise UserInputError(f"not valid CSV: {error}", where=f"{path}, line {reader.line_num}") from None


def _row(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        what = f"row with {len(cells)} cell{'s' * (len(cells) != 1)} under {len(header)} columns"
        more = "quote cells that hold commas"
        fix = more if len(cells) > len(header) else "write every cell; an unknown one stays empty between its commas"
        raise UserInputError(what, where=where, fix=fix)
    return {name: plain_cell(cell.strip()) for name, cell in zip(header, cells, strict=True)}
