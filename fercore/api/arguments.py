"""Arguments as the functions of the interface take them, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from fercore.data.spec import DomainSpec, as_spec
from fercore.engine.observer import Observer
from fercore.errors import UserInputError

PathLike: TypeAlias = str | os.PathLike[str]
Spec: TypeAlias = DomainSpec | str
"""FORMAT:PATH[?option=value&...], as text or parsed."""
T = TypeVar("T", str, Spec)
Observe: TypeAlias = Callable[[str], Observer]
"""Makes what hears of a run from the run's label; for `compare` it must be importable."""


def silent(label: str) -> Observer:
    """Return what hears of a run and says nothing."""
    return Observer()


def flips(tta: str | None) -> bool:
    """Return whether mirror images are asked, too.

    Raises:
        UserInputError: for a word that is not known.
    """
    if tta not in (None, "flip"):
        raise UserInputError(f"unknown value {tta!r}", where="--tta", fix="known: flip")
    return tta == "flip"


def listed(given: T | Sequence[T]) -> Sequence[T]:
    """Return one value, or several, as a sequence."""
    return [given] if isinstance(given, str | DomainSpec) else given  # type: ignore[list-item, return-value]


def spec_or_none(given: Spec | None) -> DomainSpec | None:
    """Return a SPEC that may be text, or not given."""
    return None if given is None else as_spec(given)


def path_or_none(given: PathLike | None) -> Path | None:
    """Return a path that may be text, or not given."""
    return None if given is None else Path(given)


def text_or_none(given: PathLike | None) -> str | None:
    """Return a path, or what is written like one, as text; None = not given."""
    return None if given is None else os.fspath(given)
