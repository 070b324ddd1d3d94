"""Lists: lines "path label" without a header, whatever sets the two apart; a path may hold blanks.

A path ends where an image's suffix does, or at the last blank of a line without one, or it stands in quotes. Behind it
come words between blanks, commas, semicolons or tabs. Of several the label is the one column of expressions' names, or
`column=` says which it is (the path is column 1): a guess among numbers would go unnoticed. A first line that names its
columns ("image label") says it as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from fercore.data.formats.reading.codes import Labels
from fercore.data.formats.reading.columns import meaning
from fercore.data.formats.reading.scan import Rows, listed, read_text
from fercore.data.formats.reading.tables import DELIMITERS
from fercore.data.images.codecs import IMAGE_SUFFIXES
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

BEHIND = r"(?:([\s,;]+)(.*))?"
QUOTED = re.compile(rf'"([^"]+)"{BEHIND}')
ENDING = re.compile(rf"(.*(?:{'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))})){BEHIND}", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One line of a list: path and label as listed ("" = none), and its place for messages."""

    path: str
    native: str
    where: str


def list_lines(path: Path, spec: DomainSpec, labels: Labels, rows: Rows) -> list[Line]:
    """Return the lines of a list; those that are empty or start with # are skipped.

    Args:
        path: the list. spec: may say `column=`. labels: which words are names of expressions. rows: keeps the columns
            that are not read.

    Raises:
        UserInputError: if it is no text, has a header of a manifest, or nothing says which column is the label.
    """
    texts = [(number, text.strip()) for number, text in enumerate(read_text(path).split("\n"), start=1)]
    texts = [(number, text) for number, text in texts if text and not text.startswith("#")]
    header = _header(texts[0][1], f"{path}, line {texts[0][0]}") if texts else []
    lines = [(number, _columns(text)) for number, text in texts[bool(header) :]]
    width = max((len(cells) for _, cells in lines), default=1)
    if header and len(header) != width:
        what = f"a first line of {len(header)} columns above lines of {width}"
        raise UserInputError(what, where=f"{path}, line {texts[0][0]}", fix="name every column by one word")
    label = _label_column(lines, header, spec.integer("column", 0, least=2), labels, path)
    names = header or [f"column {k}" for k in range(1, width + 1)]
    rows.unread += [name for k, name in enumerate(names) if k not in (0, label) and name not in rows.unread]
    return [Line(cells[0], "".join(cells[label : label + 1]), f"{path}, line {number}") for number, cells in lines]


def _columns(text: str) -> list[str]:
    """Return the path of a line and the words behind it."""
    match = QUOTED.fullmatch(text) or ENDING.fullmatch(text)
    # No suffix of an image: the last blank is all there is to go by.
    if match is None:
        return text.rsplit(None, 1)
    path, gap, rest = match.groups(default="")
    # A comma, semicolon or tab keeps empty cells apart; blanks do not.
    mark = next((mark for mark in DELIMITERS if mark in gap), None)
    return [path, *(word.strip(' "') for word in rest.rstrip(" ,;\t").split(mark))] if rest else [path]


def _header(text: str, where: str) -> list[str]:
    """Return the names of the columns in a list's first line, if that is what stands there; else none.

    Raises:
        UserInputError: if it names columns that only a manifest has, or the path is not the first.
    """
    names = re.split(r'[\s,;"]+', text.strip('"'))
    known = [meaning(name) for name in names]
    # A first line with an image in it is data, whatever its words resemble.
    if any(map(ENDING.fullmatch, names)) or not {"path", "label"} <= {*known}:
        return []
    if known[0] != "path" or {*known} - {"path", "label", ""}:
        what = f"a table of more than a path and what is behind it, with the columns {listed(names, len(names))}"
        raise UserInputError(what, where=where, fix="read it as `manifest:`")
    return names


def _label_column(
    lines: Sequence[tuple[int, list[str]]], header: Sequence[str], asked: int, labels: Labels, path: Path
) -> int:
    """Return which column is the label, from 0: as asked (from 1; 0 = nothing was), or as header or contents say."""
    # The widest line: where cells at the end are left out, the others are shorter.
    number, longest = max(lines, key=lambda line: len(line[1]), default=(1, [""]))
    where = f"{path}, line {number}"
    if asked > len(longest):
        raise UserInputError(f"no column {asked} in lines of {len(longest)}", where=where, fix="see ?column=")
    named = [asked - 1] if asked else [k for k, name in enumerate(header) if meaning(name) == "label"]
    words: dict[int, set[str]] = {}
    for _, cells in lines:
        for k, cell in enumerate(cells[1:], start=1):
            words.setdefault(k, set()).add(cell)
    if len(named) != 1:
        named = [
            k for k, cells_seen in words.items() if cells_seen != {""} and all(map(labels.knows, cells_seen - {""}))
        ]
    if len(named) == 1 or len(longest) < 3:
        return named[0] if named else 1
    what = f"{len(longest)} columns, and nothing says which of them is the label"
    shown = [f"{k + 1} ({_some(cells_seen)})" for k, cells_seen in list(words.items())[:8]]
    raise UserInputError(what, where=where, fix=f"add ?column= with its number: {' or '.join(shown)}")


def _some(words: Set[str], most: int = 8) -> str:
    inside = sorted(words, key=lambda word: (len(word), word))
    return " ".join(inside[:most]) + (" ..." if len(inside) > most else "")
