"""What a face detector finds, and which of several faces is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

CHOICES: tuple[str, ...] = ("largest", "centre", "surest")


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face.

    Attributes:
        box: left, top, right, bottom in pixels; may reach outside the image.
        score: how sure the detector is, in [0, 1].
        landmarks: float64[5,2] (x, y) of left eye, right eye, nose, left and right corner of the mouth, left and right
            as in the picture; None if the detector gives none.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None = None

    @property
    def size(self) -> float:
        """Return the shorter side of the box."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


class Detector(Protocol):
    """What an entry point of the group `fercore.detectors` makes: a class or function that is called as
    `make(weights=Path or None, device="cpu")` in every worker process.
    """

    def detect(self, image: np.ndarray) -> Sequence[Face]:
        """Return the faces in an image uint8[H,W,3], RGB, in any order."""


def choose(faces: Sequence[Face], rule: str, width: int, height: int) -> Face:
    """Return one face: the "largest", the one nearest the "centre", or the "surest"; the score breaks ties."""

    def rank(face: Face) -> tuple[float, float]:
        left, top, right, bottom = face.box
        if rule == "largest":
            return max(0.0, right - left) * max(0.0, bottom - top), face.score
        if rule == "centre":
            return -float(np.hypot((left + right - width) / 2, (top + bottom - height) / 2)), face.score
        return face.score, 0.0

    return max(faces, key=rank)


def five_of_68(points: np.ndarray) -> np.ndarray:
    """Return float64[5,2] from the usual 68 points float[68,2]: eye centres, tip of the nose, corners of the mouth."""
    eyes = points[36:42].mean(axis=0), points[42:48].mean(axis=0)
    five: np.ndarray = np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float64)
    return five
