"""TOML, JSON and CSV that pass between strangers: plain values of a known depth in, no formulas out."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fercore.errors import UserInputError

MOST_DEPTH = 32
"""Levels that settings and records may be nested; code goes through them by recursion."""


class Shape(BaseModel):
    """Base of what is read of a record: nothing is converted, and what is not named may be there too."""

    model_config = ConfigDict(strict=True, extra="ignore")


# With leading quotes, so that what was quoted once is quoted again and comes back the same; full-width signs too.
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
DEEP_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MOST_DEPTH}}}""",
)
"""A TOML key of so many parts; the time that tomllib takes for one grows with their square."""
NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?")


class CsvWriter:
    """Writes CSV whose texts a spreadsheet takes for texts: what it would run as a formula gets a ' in front.

    Args:
        file: loaded with `newline=""`. end: of a line.
    """

    def __init__(self, file: IO[str], end: str = "\n") -> None:
        self._rows = csv.writer(file, lineterminator=end)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Write one row."""
        self._rows.writerow([quoted_cell(cell) if isinstance(cell, str) else cell for cell in cells])


def quoted_cell(text: str) -> str:
    """Return a text as it stands in a CSV file of ours; `plain_cell` gives it back.

    Spreadsheets run a cell that begins with =, +, -, @ or a tab as a formula, such as a file name `=HYPERLINK(...)`.
    """
    # A number such as -1.5 is no formula.
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """Return the text that `quoted_cell` wrote."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        tomllib.TOMLDecodeError: if it is no TOML.
        UserInputError: if its values are nested too deep.
    """
    # Before parsing, whose time it would take.
    if DEEP_KEY.search(text):
        raise _too_deep(where)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # a number of more digits than Python reads, a date that is none
        raise tomllib.TOMLDecodeError(str(error)) from None
    except RecursionError:
        raise _too_deep(where) from None
    refuse_deep(tree, where=where)
    return tree


def parse_json(text: str | bytes, *, where: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: if it is no JSON.
        UserInputError: if its values are nested too deep.
    """
    try:
        tree = json.loads(text)
    except RecursionError:
        raise _too_deep(where) from None
    refuse_deep(tree, where=where)
    return tree


def misfit(tree: Any, shape: type[Shape]) -> str:
    """Say where plain values have another shape, as "plugins.0.name: input should be a valid string"; "" if nowhere."""
    try:
        shape.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return (f"{place}: " if place else "") + in_words(first["msg"])
    return ""


def without_none(tree: Any) -> Any:
    """Return nested tables without None values, which TOML cannot hold; None always means "not given"."""
    if isinstance(tree, Mapping):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    return tree


def in_words(message: str) -> str:
    """Return pydantic's message as the end of a line, without the names of classes."""
    text = message.partition(" or instance of ")[0]
    return text[0].lower() + text[1:]


def refuse_deep(tree: Any, *, where: str) -> None:
    """Make sure that plain values may be gone through by recursion.

    Raises:
        UserInputError: if they are nested deeper than `MOST_DEPTH`.
    """
    # Level by level, without recursion, which is what must not be trusted yet.
    level = [tree]
    for _ in range(MOST_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise _too_deep(where)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _too_deep(where: str) -> UserInputError:
    return UserInputError("values are nested too deep", where=where, fix=f"{MOST_DEPTH} levels are the most")


def parquet_package(path: str | os.PathLike[str] = "--out") -> Any:
    """Return the package that writes parquet.

    Args:
        path: what would be written.

    Raises:
        UserInputError: if it is not installed.
    """
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError as error:
        what = f"parquet needs the package pyarrow ({error})"
        raise UserInputError(what, where=str(path), fix="pip install 'fercore[parquet]', or write .csv") from None
