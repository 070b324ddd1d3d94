"""Expression names: the canonical order, and the aliases that datasets use for them."""

from __future__ import annotations

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


def find_label(name: str) -> int | None:
    """Return the canonical index of an expression name or alias (any case), or None if nobody knows it."""
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    return CANONICAL.index(key) if key in CANONICAL else None


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
