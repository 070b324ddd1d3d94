"""Label codes of the datasets: a name, an alias or a number, to the canonical label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fercore.data.formats.reading.names import SET_ASIDE, name_key, names_of
from fercore.data.formats.reading.scan import Rows
from fercore.data.labels import CANONICAL, find_label
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

CODES: dict[str, dict[int, str]] = {
    "canonical": dict(enumerate(CANONICAL)),
    "canonical1": dict(enumerate(CANONICAL, start=1)),
    "fer2013": dict(enumerate(CANONICAL[:7])),
    "expw": dict(enumerate(CANONICAL[:7])),
    "rafdb": dict(enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), start=1)),
    "rafdb0": dict(enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"))),
    "ferplus": dict(enumerate(("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"))),
    "affectnet": dict(
        enumerate(("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"))
    ),
    "ckplus": dict(enumerate(("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise"))),
    "pocan": dict(enumerate(("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise"))),
    "afe": {3: "surprise", 6: "fear", 5: "disgust", 1: "happiness", 4: "sadness", 9: "anger", 0: "neutral"},
    "lacmfer": dict(enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"))),
}
"""Coding -> native number -> canonical name."""

NO_EXPRESSION: dict[str, frozenset[int]] = {"affectnet": frozenset({8, 9, 10}), "ferplus": frozenset({8, 9})}
"""Numbers that a coding itself sets aside (none, uncertain, no face): left out, and no fault."""


USUAL: tuple[str, ...] = ("rafdb", "rafdb0", "fer2013", "affectnet", "canonical", "canonical1")
"""Codings that a message proposes: what lists of other people are numbered by."""

NO_LABEL = frozenset({"", "nan", "null"})
"""Lower-case cells that say "no label" (pandas writes the second); so does the number -1."""

NUMBER = re.compile(r"(-?[0-9]{1,4})(?:[.,]0*)?", re.ASCII)
"""A whole number, also as tables write it that hold empty cells: 3.0."""


@dataclass(frozen=True)
class Labels:
    """How one dataset's labels are read: by name, or by the numbers of a coding.

    Attributes:
        coding: key of CODES, "" = nothing says what its numbers mean.
        stated: whether the user named it (`labels=`).
        names: what names, or numbers, of the dataset's own mean (`names=`).
    """

    coding: str
    stated: bool = False
    names: Mapping[str, int] = field(default_factory=dict)

    def knows(self, text: str) -> bool:
        """Return whether a text is the name of an expression, or one of those that `names=` tells."""
        return find_label(text) is not None or name_key(text) in self.names

    def find(self, text: str, rows: Rows, n: int = 1) -> int | None:
        """Return the canonical label of a native one, -1 without one; what is none is counted in `rows`: None.

        Args:
            text: name, alias or number. rows: where numbers and unusable labels are counted. n: samples that have it.
        """
        number = whole_number(text)
        named = self.names.get(name_key(text))
        # `names=` first: it may give a name of ours another meaning in this dataset.
        if named is not None:
            if named != SET_ASIDE:
                return named
            rows.skipped[text.strip()] += n
            return None
        if text.strip().lower() in NO_LABEL or number == -1:
            return -1
        if number is not None:
            # Counted even where the coding has it: `refuse_guess` looks at all numbers together.
            rows.numbers[number] += n
        label = find_code(text, self.coding)
        if label is None:
            aside = number is not None and number in NO_EXPRESSION.get(self.coding, ())
            (rows.skipped if aside else rows.unknown)[text.strip()] += n
        return label

    def refuse_guess(self, rows: Rows, where: str) -> None:
        """Refuse numbers of a coding that nothing names, or that another one explains and the format's own does not.

        Raises:
            UserInputError: with the count of each number, and the codings that have them all.
        """
        fitting = fits(rows.numbers)
        if not rows.numbers or self.stated or (self.coding and not (fitting and self._outside(rows.numbers))):
            return
        what = f"labels are not the numbers of {self.coding}" if self.coding else "labels are numbers of unknown coding"
        fix = f"add ?labels= with the one it is: {'; '.join(fitting)}"
        if not fitting:
            fix = f"none of {', '.join(USUAL)} has them all: write names ({', '.join(CANONICAL)}) in their place"
        raise UserInputError(f"{what}: {counted(rows.numbers)}", where=where, fix=fix)

    def _outside(self, numbers: Mapping[int, int]) -> bool:
        return bool(numbers.keys() - CODES[self.coding].keys())


def labels_of(spec: DomainSpec, native: str = "") -> Labels:
    """Return how a spec's labels are read: as `labels=` says, else by the format's own coding, if it has one.

    Raises:
        UserInputError: for a coding that nobody knows, or a file of names that cannot be read.
    """
    if "labels" in spec.options:
        return Labels(spec.choice("labels", tuple(CODES), native), stated=True, names=names_of(spec))
    return Labels(native, names=names_of(spec))


def fits(numbers: Mapping[int, int]) -> list[str]:
    """Return the usual codings that have all of some numbers, with their classes, nearest first; none for no number."""
    codings = [name for name in USUAL if numbers and numbers.keys() <= CODES[name].keys()]
    # The coding with the fewest classes beside those seen comes first.
    codings.sort(key=lambda name: len(CODES[name]))
    return [f"{name} (from {min(CODES[name])}: {' '.join(CODES[name].values())})" for name in codings]


def counted(numbers: Mapping[int, int]) -> str:
    """Return "1 (13), 2 (9)": each number with how many samples have it, the first dozen of them."""
    text = ", ".join(f"{number} ({n})" for number, n in sorted(numbers.items())[:12])
    return text + (f" and {len(numbers) - 12} more" if len(numbers) > 12 else "")


def find_code(text: str, coding: str) -> int | None:
    """Return the canonical index of a native label (name, alias or number), or None if the coding has no such label."""
    by_name = find_label(text)
    if by_name is not None:
        return by_name
    number = whole_number(text)
    name = None if number is None else CODES.get(coding, {}).get(number)
    return None if name is None else CANONICAL.index(name)


def whole_number(text: str) -> int | None:
    """Return a whole number of up to four digits, also one written as 3.0, or None."""
    match = NUMBER.fullmatch(text.strip())
    return None if match is None else int(match[1])
