"""Errors that a user can fix: one clear line that says what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST_WORD = 500


class UserInputError(ValueError):
    """The user's input is wrong; the command line prints the message on one line and exits with 2.

    Args:
        what: what is wrong, in a few words ("unknown plugin 'la_cmfr'").
        where: file and line, setting or option the fault stands in.
        fix: how to fix it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        text = what + (f" ({where})" if where else "") + (f"; {fix}" if fix else "")
        super().__init__(" ".join(map(_shortened, text.split())))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by their arguments, and the one argument of ValueError is the finished text.
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _shortened(word: str) -> str:
    """Return a word that fits a line: of a very long one, such as a name of 5,000 letters, both ends."""
    return word if len(word) <= LONGEST_WORD else f"{word[:100]}...{word[-100:]}"


def _rebuild(kind: type[UserInputError], what: str, where: str, fix: str) -> UserInputError:
    return kind(what, where=where, fix=fix)


def reason_of(error: Exception) -> str:
    """Return why something cannot be read: the system's words without its number, or how the error's text begins."""
    return str(getattr(error, "strerror", None) or str(error)[:200])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest known name, or the list of known names."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "known: " + (", ".join(names) if names else "none")
