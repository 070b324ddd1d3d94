"""Which methods are tried on a task: rows of data, the core's and those of installed packages."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pydantic import ConfigDict, Field

from fercore.documents import Shape, misfit, parse_toml
from fercore.errors import UserInputError, did_you_mean
from fercore.experiments.cells import Entry, parse_entry
from fercore.files import read_text
from fercore.hooks.discovery import installed_plugins

GROUP = "fercore.portfolio"
"""Entry points of packages that bring rows: each a text in TOML, as `portfolio.toml` is."""

Feature: TypeAlias = Literal[
    "source", "no_source", "several_sources", "few_labels", "action_units", "tiny_target", "label_shift", "one_class",
]  # fmt: skip
FEATURES: tuple[Feature, ...] = get_args(Feature)
"""What is found of a task; see `fercore.adaptation.look`."""
LATE = frozenset({"label_shift", "one_class"})
"""Those that are found once there is a model to look at the target with."""


class _Row(Shape):
    model_config = ConfigDict(strict=True, extra="forbid")

    label: str
    method: str
    needs: list[Feature] = Field(default_factory=list)
    unless: list[Feature] = Field(default_factory=list)
    why: str = ""


class _Rows(Shape):
    model_config = ConfigDict(strict=True, extra="forbid")

    row: list[_Row]


@dataclass(frozen=True)
class Row:
    """A method of the portfolio.

    Attributes:
        entry: plugins and settings. needs, unless: features of a task that it must, and must not, have. why: it is
            there, in words.
    """

    entry: Entry
    needs: frozenset[str]
    unless: frozenset[str]
    why: str

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.entry.label

    def fault(self, features: Collection[str]) -> str:
        """Say why it is nothing for a task of these features; "" if it is something."""
        if missing := sorted(self.needs - set(features)):
            return f"needs {_words(missing)}"
        if present := sorted(self.unless & set(features)):
            return f"not for {_words(present)}"
        return ""


def portfolio() -> list[Row]:
    """Return the rows of fercore, then those of installed packages.

    Raises:
        UserInputError: for rows that cannot be read, or two with one label.
    """
    own = Path(__file__).with_name("portfolio.toml")
    rows = read_rows(read_text(own), str(own))
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        rows += read_rows(point.load(), f"{GROUP} of {point.value}")
    labels = [row.label for row in rows]
    if twice := next((label for label in labels if labels.count(label) > 1), ""):
        raise UserInputError(f"two rows of the portfolio are called {twice!r}", where=GROUP, fix="rename one of them")
    return rows


def read_rows(text: object, where: str) -> list[Row]:
    """Read rows of a portfolio.

    Args:
        text: in TOML. where: it is from, for messages.

    Raises:
        UserInputError: if it is no such text.
    """
    if not isinstance(text, str):
        raise UserInputError("is not a text in TOML", where=where, fix="write [[row]] tables with label and method")
    try:
        tree = parse_toml(text, where=where)
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"not valid TOML: {error}", where=where) from None
    if fault := misfit(tree, _Rows):
        raise UserInputError(
            f"a row of the portfolio is wrong: {fault}", where=where, fix=f"features: {', '.join(FEATURES)}"
        )
    return [
        Row(parse_entry(f"{row.label}:{row.method}"), frozenset(row.needs), frozenset(row.unless), row.why)
        for row in _Rows.model_validate(tree).row
    ]


def fitting(
    rows: Sequence[Row], features: Collection[str], only: Sequence[str] = ()
) -> tuple[list[Row], dict[str, str]]:
    """Return the rows that suit a task and whose plugins are installed, and why each of the others does not.

    Args:
        features: of the task, as far as they are known without a model. only: labels of rows that are wanted; none =
            all.

    Raises:
        UserInputError: for a label that nobody has.
    """
    labels = [row.label for row in rows]
    if strange := next((label for label in only if label not in labels), ""):
        raise UserInputError(f"unknown row {strange!r}", where="--method", fix=did_you_mean(strange, labels))
    available, taken, left = installed_plugins(), list[Row](), dict[str, str]()
    for row in rows:
        if only and row.label not in only:
            continue
        missing = [name for name in row.entry.plugins if name not in available]
        fault = (
            f"plugin {', '.join(missing)} is not installed" if missing else row.fault({*features, *(row.needs & LATE)})
        )
        if fault:
            left[row.label] = fault
        else:
            taken.append(row)
    return taken, left


WORDS: dict[Feature, str] = {
    "source": "source data",
    "no_source": "a model alone",
    "several_sources": "several sources",
    "few_labels": "a few labels of the target",
    "action_units": "action units",
    "tiny_target": "a target this small",
    "label_shift": "class shares of the target that seem far from even",
    "one_class": "a target that seems to have one class",
}


def _words(features: Sequence[str]) -> str:
    return ", ".join(WORDS[feature] for feature in FEATURES if feature in features)
