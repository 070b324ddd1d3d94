"""What a table of predictions comes to: how many, which classes, how sure, and how far from what was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fercore.prediction.tables import Row

UNSURE = 0.5
"""Probability below which an answer counts as unsure."""
NAMED = 5
"""Reasons that the summary's lines name."""


@dataclass
class Summary:
    """Counts that grow row by row, in constant memory.

    Args:
        classes: of the model.

    Attributes:
        faces: that got an answer. refused: frames without one, by reason. confidence: sum of the highest shares.
        frames: pictures, with an answer or without.
    """

    classes: Sequence[str]
    faces: int = 0
    frames: int = 0
    confidence: float = 0.0
    unsure: int = 0
    shares: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    _last: tuple[str, int | None] | None = None

    def add(self, row: Row) -> None:
        """Count a row."""
        if (row.input, row.number) != self._last:
            self._last = row.input, row.number
            self.frames += 1
        if row.refused:
            self.refused[row.refused.partition(":")[0]] += 1
            return
        highest = max(row.probs)
        self.faces += 1
        self.confidence += highest
        self.unsure += highest < UNSURE
        self.shares[row.prediction] += 1

    def to_json(self) -> dict[str, Any]:
        """Return {"frames", "faces", "refused": {reason: n}, "classes": {name: n}, "mean_confidence", "unsure"}."""
        return {
            "frames": self.frames,
            "faces": self.faces,
            "refused": dict(self.refused.most_common()),
            "classes": {name: self.shares[name] for name in self.classes},
            "mean_confidence": self.confidence / self.faces if self.faces else None,
            "unsure": self.unsure,
        }

    def lines(self) -> list[str]:
        """Return the summary for people."""
        n, lost = self.faces, sum(self.refused.values())
        lines = [f"{n} faces in {self.frames} pictures" + (f", {lost} pictures without an answer" if lost else "")]
        lines += [f"  {count}: {reason}" for reason, count in self.refused.most_common(NAMED)]
        if n:
            order = sorted(self.classes, key=lambda name: -self.shares[name])
            lines.append(", ".join(f"{name} {self.shares[name] / n:.1%}" for name in order if self.shares[name]))
            sure = f"mean probability of the class {self.confidence / n:.2f}"
            lines.append(f"{sure}, below {UNSURE} in {self.unsure / n:.1%}")
        return lines
