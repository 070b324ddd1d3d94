"""What a table of predictions comes to: how many, which classes, how sure, and how far from what was trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from fercore.evaluation.distances import LEAST, FeatureSample, distance
from fercore.evaluation.label_shift import SharesByEstimator, shares_json, shares_lines
from fercore.prediction.class_shares import MOST, class_shares
from fercore.prediction.predictor import Predictor
from fercore.prediction.tables import Row
from fercore.terminal import counted

UNSURE = 0.5
"""Probability below which an answer counts as unsure."""
NAMED = 5
"""Reasons that the summary's lines name."""


@dataclass(frozen=True)
class Distance:
    """How far faces are from the sources of a model.

    Attributes:
        value: squared MMD of their features to the stored ones. n: faces that were seen for it.
        target: that of the target which the model was adapted to. limit: above it, faces are farther than that target
            by more than chance (two standard deviations of the difference).
    """

    value: float
    n: int
    target: float
    limit: float

    def lines(self) -> list[str]:
        """Return it for people."""
        here = f"distance from the training domain {self.value:.3f} (squared MMD of {counted(self.n, 'face')})"
        lines = [f"{here}; of the target the model was adapted to {self.target:.3f}"]
        if self.value > self.limit:
            lines.append("warning: these faces are farther from the training domain than that target: trust them less")
        return lines


def distance_of(predictor: Predictor, sample: FeatureSample) -> Distance | None:
    """Return how far a sample of faces is; None for too few of them, or a model that has nothing to compare with."""
    shift, stored = predictor.record.shift, predictor.source_features
    if shift is None or not stored or sample.seen < LEAST:
        return None
    features = sample.arrays()
    n = len(next(iter(features.values())))
    chance = shift.spread * math.sqrt(1 + shift.n_target / n)
    return Distance(distance(stored, features), sample.seen, shift.target, shift.target + 2 * chance)


@dataclass
class Summary:
    """Counts that grow row by row, in constant memory.

    Args:
        classes: of the model.

    Attributes:
        faces: that got an answer. refused: frames without one, by reason. confidence: sum of the highest shares.
        frames: pictures, with an answer or without. distance: None where it cannot be said. sample: answers of some
            faces, by "probs". estimated_shares: of the classes; None where there is nothing to estimate with.
    """

    classes: Sequence[str]
    faces: int = 0
    frames: int = 0
    confidence: float = 0.0
    unsure: int = 0
    shares: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    distance: Distance | None = None
    sample: FeatureSample = field(default_factory=lambda: FeatureSample(MOST))
    estimated_shares: SharesByEstimator | None = None
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
        self.sample.add({"probs": np.array([row.probs])})

    def estimate_shares(self, predictor: Predictor) -> None:
        """Estimate the class shares by the answers counted, which are the model's own."""
        if self.faces:
            self.estimated_shares = class_shares(predictor, self.sample.arrays()["probs"])

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "frames": self.frames,
            "faces": self.faces,
            "refused": dict(self.refused.most_common()),
            "classes": {name: self.shares[name] for name in self.classes},
            "mean_confidence": self.confidence / self.faces if self.faces else None,
            "unsure": self.unsure,
            "distance": None if self.distance is None else asdict(self.distance),
            **shares_json(self.estimated_shares),
        }

    def lines(self) -> list[str]:
        """Return the summary for people."""
        n, lost = self.faces, sum(self.refused.values())
        lines = [
            f"{counted(n, 'face')} in {counted(self.frames, 'picture')}"
            + (f", {counted(lost, 'picture')} without an answer" if lost else "")
        ]
        lines += [f"  {count}: {reason}" for reason, count in self.refused.most_common(NAMED)]
        if n:
            order = sorted(self.classes, key=lambda name: -self.shares[name])
            lines.append(", ".join(f"{name} {self.shares[name] / n:.1%}" for name in order if self.shares[name]))
            sure = f"mean probability of the class {self.confidence / n:.2f}"
            lines.append(f"{sure}, below {UNSURE} in {self.unsure / n:.1%}")
        lines += self.distance.lines() if self.distance is not None else []
        return [*lines, *shares_lines(self.estimated_shares)]
