"""Photographs of drawn faces for the tests of `data prepare`, and a detector that knows where the faces are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fercore.data.spec import parse_spec
from fercore.datasets.prepare import PrepareSettings
from fercore.datasets.prepare.faces import Face, five_of_68
from fercore.synthfer import SynthFER

N = 8
MARK = (40, 30)
"""Where the drawn face stands in a larger photograph."""


class Truth:
    """A detector that reads the face's number off the picture's first pixel and knows the rest."""

    def __init__(self, *, weights=None, device="cpu") -> None:
        self.points = drawn().landmarks(range(N)).astype(float) + MARK

    def detect(self, image: np.ndarray) -> list[Face]:
        number = int(image[0, 0, 0])
        if number == 200:
            os._exit(3)
        if number >= N:
            return []
        points = self.points[number]
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return [Face((left, top, right, bottom), 0.9, five_of_68(points)), Face((0, 0, 4, 4), 0.99)]


def drawn() -> SynthFER:
    return SynthFER("studio", n=N, seed=2, size=64)


TRUTH = PrepareSettings(size=48, detector="truth")


def spec(root: Path):
    return parse_spec(f"folder:{root}")


def contents(folder: Path) -> dict[str, bytes]:
    names = [p for p in folder.rglob("*") if p.is_file() and p.name not in ("journal.jsonl", ".prepare.lock")]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(names)}
