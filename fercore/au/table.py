"""Action-unit tables: names, and scores and codes of some images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NAME = re.compile(r"au[ _-]?0*([1-9]\d?)", re.IGNORECASE)

SCORES, CODES = "au", "au_code"
"""Names of the per-sample extras: scores float32[n,A] in [0,1] (NaN = no row), codes uint8[n,A]."""

MOST = 64
"""Action units a code can hold."""


@dataclass(frozen=True, eq=False)
class AUTable:
    """Action units of n images.

    Attributes:
        names: canonical names, "AU01", in order of their number.
        scores: float32[n,A] in [0,1]; NaN where nothing is known of an image.
        codes: uint8[n,A], 1 = present; 0 where nothing is known.
    """

    names: tuple[str, ...]
    scores: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def known(self) -> np.ndarray:
        """Return bool[n]: which images have a row."""
        return np.asarray(~np.isnan(self.scores).any(axis=1))

    def take(self, names: Sequence[str], rows: np.ndarray) -> AUTable:
        """Return some columns, by name, of some rows; row -1 is one of which nothing is known."""
        at = [self.names.index(name) for name in names]
        scores, codes = self.scores[:, at][rows], self.codes[:, at][rows]
        # Indexing with -1 has taken the last row: it is put right here.
        scores[rows < 0], codes[rows < 0] = np.nan, 0
        return AUTable(tuple(names), scores, codes)


MISSING = frozenset({"", "na", "n/a", "#n/a", "null", "none", "-", "#div/0!"})
"""Lower-case cells that say "no number", beside every spelling of NaN (OpenFace's is -nan(ind))."""


def is_missing(text: str) -> bool:
    """Return whether a cell says that there is no number; a cell that is none by mistake ("x") does not."""
    cell = text.strip().lower()
    # Spellings of C libraries: -nan(ind), 1.#QNAN, -1.#IND.
    bare = cell.lstrip("+-").removeprefix("1.#")
    return cell in MISSING or bare.startswith(("nan", "qnan", "snan", "ind"))


def canonical_name(text: str) -> str | None:
    """Return "AU01" for "AU1", "au_1", "AU01"; None for what is no action unit."""
    match = _NAME.fullmatch(text.strip())
    return f"AU{int(match[1]):02d}" if match else None


def from_scores(names: Sequence[str], scores: np.ndarray, threshold: float) -> AUTable:
    """Return a table whose codes are scores >= threshold, columns in order of their number.

    Args:
        names: canonical names. scores: float[n,A] in [0,1]. threshold: of presence.
    """
    order = sorted(range(len(names)), key=lambda k: names[k])
    scores = np.asarray(scores, dtype=np.float32)[:, order]
    return AUTable(tuple(names[k] for k in order), scores, (scores >= threshold).astype(np.uint8))
