"""Label codes of the datasets: a name, an alias or a number, to the canonical label."""

from __future__ import annotations

from fercore.data.labels import CANONICAL, find_label

CODES: dict[str, dict[int, str]] = {
    "canonical": dict(enumerate(CANONICAL)),
    "fer2013": dict(enumerate(CANONICAL[:7])),
    "expw": dict(enumerate(CANONICAL[:7])),
    "rafdb": dict(enumerate(("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"), start=1)),
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


def find_code(text: str, coding: str) -> int | None:
    """Return the canonical index of a native label (name, alias or number), or None if the coding has no such label."""
    text = text.strip()
    by_name = find_label(text)
    if by_name is not None:
        return by_name
    if not (text.isascii() and text.isdecimal() and len(text) < 5):
        return None
    name = CODES[coding].get(int(text))
    return None if name is None else CANONICAL.index(name)


def set_aside(text: str, coding: str) -> bool:
    """Return whether a native label says "no expression" in its coding."""
    text = text.strip()
    return text.isascii() and text.isdecimal() and len(text) < 5 and int(text) in NO_EXPRESSION.get(coding, ())
