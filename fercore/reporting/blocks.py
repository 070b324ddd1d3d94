"""What a page is made of; the template turns each into HTML, and every text in them is escaped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row heads it.

    Attributes:
        title: its caption. numbers: whether all but the first column are numbers, set to the right.
        folded: whether it is shown when it is asked for.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        svg: it, with its alternative text inside. reading: what a reader learns from it. table: its numbers.
    """

    title: str
    svg: Markup
    reading: str
    table: Table | None = None


@dataclass(frozen=True)
class Figures:
    """Figures beside each other, so many in a row as there is room for.

    Attributes:
        columns: the most in a row.
    """

    figures: Sequence[Figure]
    columns: Literal[2, 3, 4] = 3
    kind: str = "figures"


@dataclass(frozen=True)
class Face:
    """An image: its data URI, what is written under it in one or two lines, and for those who do not see it."""

    uri: str
    lines: Sequence[str]
    alt: str


@dataclass(frozen=True)
class Faces:
    """Rows of images, each under its name."""

    title: str
    reading: str
    rows: Sequence[tuple[str, Sequence[Face]]]
    kind: str = "faces"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Heading:
    """A heading inside a chapter."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Code:
    """A command to be copied."""

    title: str
    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Tiles:
    """Numbers that come first: (name, value, what stands under it)."""

    tiles: Sequence[tuple[str, str, str]]
    kind: str = "tiles"


Block: TypeAlias = Table | Figures | Faces | Note | Heading | Code | Tiles


@dataclass(frozen=True)
class Chapter:
    """A part of the page with a heading that the list of contents leads to."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    lead: str
    chapters: Sequence[Chapter]
