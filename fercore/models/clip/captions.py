"""Sentences about faces, written from an expression's name and action units, and which of them fit which face."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

ADJECTIVES: dict[str, str] = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "fearful",
    "happiness": "happy",
    "sadness": "sad",
    "surprise": "surprised",
    "neutral": "neutral",
    "contempt": "contemptuous",
}
UNITS: dict[str, str] = {
    "AU01": "inner brows raised",
    "AU02": "outer brows raised",
    "AU04": "brows lowered",
    "AU05": "eyes wide open",
    "AU06": "cheeks raised",
    "AU07": "lids tight",
    "AU09": "nose wrinkled",
    "AU10": "upper lip raised",
    "AU12": "smiling mouth",
    "AU14": "dimples",
    "AU15": "mouth corners down",
    "AU17": "chin raised",
    "AU20": "mouth stretched",
    "AU23": "lips tight",
    "AU25": "lips parted",
    "AU26": "jaw dropped",
    "AU45": "eyes closed",
}
"""Action unit -> what one sees (after FACS, Ekman and Friesen)."""

NAMED = ("a photo of a {noun}.", "a photo of {a_adjective} face.", "{noun}.", "a face showing {noun}.",
         "{a_adjective} person.")  # fmt: skip
NAMED_UNITS = ("{a_adjective} face with {units}.", "{noun}: {units}.")
UNNAMED = ("a face with {units}.", "{units}.")


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims: a label (None = none) and units that the face shows."""

    text: str
    label: str | None
    units: frozenset[str]

    def fits(self, label: str, units: Collection[str]) -> bool:
        """Say whether the sentence is true of a face with a label and units."""
        return self.label in (None, label) and self.units.issubset(units)


def write_caption(label: str, units: Sequence[str], draws: np.ndarray, *, most: int = 2) -> Caption:
    """Write a sentence that is true of a face.

    Args:
        label: name of its expression.
        units: action units it shows; unknown ones are left out of the sentence.
        draws: float[4] in [0,1): whether units are told, how many (at most `most`), from which on, in which template.
    """
    told = [unit for unit in units if unit in UNITS]
    kind, count, first, form = draws.tolist()
    texts: Sequence[str] = NAMED
    named, chosen = True, list[str]()
    if kind >= 0.5 and told:
        size = 1 + int(count * min(most, len(told)))
        start = int(first * len(told))
        # Round the end, so that every unit is as likely to be told.
        chosen = (told + told)[start : start + size]
        texts, named = (NAMED_UNITS, True) if kind < 0.6 else (UNNAMED, False)
    adjective = ADJECTIVES.get(label, label)
    article = "an" if adjective[0] in "aeiou" else "a"
    words = {"noun": label, "a_adjective": f"{article} {adjective}", "units": _listed([UNITS[u] for u in chosen])}
    text = texts[int(form * len(texts))].format(**words)
    return Caption(text, label if named else None, frozenset(chosen))


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
