"""Steadier answers through a video: each face's probabilities averaged over the last moments, the latest most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Smoother:
    """An exponential average by face: an answer of `seconds` ago counts 1/e of the one of now, however spaced.

    Only what came before counts, so that a camera is smoothed as a file is.

    Args:
        seconds: above 0.
    """

    seconds: float
    _last: dict[int, tuple[tuple[float, ...], float]] = field(default_factory=dict)

    def smooth(self, face: int, probs: Sequence[float], time: float) -> tuple[float, ...]:
        """Return the averaged probabilities of a face at so many seconds."""
        known = self._last.get(face)
        if known is not None:
            new = -math.expm1(-max(0.0, time - known[1]) / self.seconds)
            probs = [old + new * (p - old) for old, p in zip(known[0], probs, strict=True)]
        self.remember(face, probs, time)
        return tuple(probs)

    def remember(self, face: int, probs: Sequence[float], time: float) -> None:
        """Take over what was said of a face; faces that have been gone for long are forgotten."""
        far = time - 10 * self.seconds
        self._last = {other: seen for other, seen in self._last.items() if seen[1] >= far}
        self._last[face] = tuple(probs), time
