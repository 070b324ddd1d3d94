"""Expression names: the canonical order, and the aliases that datasets use for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from fercore.errors import UserInputError, did_you_mean

CANONICAL: tuple[str, ...] = (
    "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt",
)  # fmt: skip
"""Canonical order of the eight expressions; 7-class sets drop contempt."""

ALIASES: dict[str, str] = {
    "angry": "anger", "an": "anger", "ang": "anger",
    "disgusted": "disgust", "di": "disgust", "dis": "disgust",
    "fearful": "fear", "afraid": "fear", "scared": "fear", "fe": "fear",
    "happy": "happiness", "joy": "happiness", "smile": "happiness", "ha": "happiness", "hap": "happiness",
    "sad": "sadness", "sa": "sadness",
    "surprised": "surprise", "su": "surprise", "sur": "surprise",
    "netural": "neutral", "neutrality": "neutral", "calm": "neutral", "ne": "neutral", "neu": "neutral",
    "contemptuous": "contempt", "co": "contempt",
}  # fmt: skip
"""Lower-case alias -> canonical name ("netural" is a typo of a published list)."""

NUMBERED = re.compile(r"[(\[]?[0-9]{1,3}[\s_.:)\]-]+(?=\D)")
"""A number before a name: "01_anger", "0 - Neutral", "3. fear". It orders folders; the name says what they hold."""


def find_label(name: str) -> int | None:
    """Return the canonical index of an expression's name or alias (any case, numbered or not), or None."""
    key = _key(name)
    key = ALIASES.get(key, key)
    return CANONICAL.index(key) if key in CANONICAL else None


def _key(name: str) -> str:
    """Return a name in lower case and without a number before it."""
    text = name.strip().lower()
    return text[match.end() :] if (match := NUMBERED.match(text)) else text


def unknown_names(counts: Mapping[str, int], most: int = 5) -> str:
    """Return unknown label names with how many samples have each and the nearest expression, the first few of them."""
    words = [f"{name!r} ({n}{_near(name)})" for name, n in list(counts.items())[:most]]
    return ", ".join(words) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _near(name: str) -> str:
    # Aliases of two or three letters are near to anything.
    known = [word for word in (*CANONICAL, *ALIASES) if len(word) > 3]
    close = difflib.get_close_matches(_key(name), known, n=1, cutoff=0.6)
    return f"; did you mean {ALIASES.get(close[0], close[0])}?" if close else ""


def canonical_label(name: str, *, where: str = "") -> int:
    """Return the canonical index of an expression name or alias.

    Raises:
        UserInputError: if the name is unknown; names the nearest known one.
    """
    index = find_label(name)
    if index is None:
        fix = did_you_mean(name.lower(), [*CANONICAL, *ALIASES])
        raise UserInputError(f"unknown expression {name!r}", where=where, fix=fix)
    return index
