"""Numbers that papers state, to stand beside measured ones: facts with their source, in published.toml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import Field, field_validator

from fercore.config import Settings, check_settings, read_toml
from fercore.errors import UserInputError, did_you_mean

FILE: Final = Path(__file__).parent / "published.toml"


class PublishedTable(Settings):
    """A table of a paper.

    Attributes:
        source: paper, table and setting. metric: as results name it. backbone: of all rows. selection: how the reported
            checkpoint was chosen, as far as it is known. pairs: columns, as fercore's studies call their pairs.
        rows: method -> share of each pair, None where the paper has no number.
    """

    source: str
    metric: str
    backbone: str
    selection: str
    pairs: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)

    @field_validator("rows", mode="before")
    @classmethod
    def _of_lists(cls, rows: Any) -> Any:
        # TOML has no null: an empty text stands for a number that is not there. The file has percent.
        return {name: tuple(None if cell == "" else cell / 100 for cell in cells) for name, *cells in rows}


@cache
def _tables() -> dict[str, tuple[PublishedTable, ...]]:
    return {
        name: tuple(check_settings(PublishedTable, table, prefix=name) for table in tables)
        for name, tables in read_toml(FILE).items()
    }


def published_names() -> list[str]:
    """Return the names of the tables, sorted."""
    return sorted(_tables())


def published_tables(name: str) -> tuple[PublishedTable, ...]:
    """Return what a paper's table states, one entry a score.

    Raises:
        UserInputError: for an unknown name.
    """
    known = _tables()
    if name not in known:
        raise UserInputError(f"no published table {name!r}", where="paper", fix=did_you_mean(name, known))
    return known[name]
