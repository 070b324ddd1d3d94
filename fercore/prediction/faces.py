"""Where the faces of a frame are: the whole picture, what a detector finds, or what a table says; and who is who."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from fercore.au.match import frame_name, match_rows, match_stems
from fercore.data.images.codecs import Unusable
from fercore.datasets.prepare.align import cut_out
from fercore.datasets.prepare.boxes import read_faces
from fercore.datasets.prepare.detectors import make_detector
from fercore.datasets.prepare.faces import Detector, Face
from fercore.datasets.prepare.one import PrepareSettings, find_faces, unfit
from fercore.errors import UserInputError
from fercore.prediction.inputs import Frame

CROP = 0.5
"""Share of a picture's shorter side that a face fills at least, where the picture is a crop of that face."""


class Finder(Protocol):
    """Finds the faces of frames; any thread may call it."""

    def find(self, frame: Frame, pixels: np.ndarray) -> list[tuple[Face | None, np.ndarray]]:
        """Return each face and its pixels uint8[h,w,3]; None for a picture that is a face as it is.

        Raises:
            Unusable: if there is none; says why.
        """


class Whole:
    """Every picture is a face."""

    def find(self, frame: Frame, pixels: np.ndarray) -> list[tuple[Face | None, np.ndarray]]:
        """Return the picture."""
        return [(None, pixels)]


@dataclass(frozen=True)
class _Cut:
    settings: PrepareSettings

    def _faces(self, frame: Frame, pixels: np.ndarray) -> list[Face]:
        raise NotImplementedError

    def find(self, frame: Frame, pixels: np.ndarray) -> list[tuple[Face | None, np.ndarray]]:
        """Return every face that `data prepare` would take, cut out as it does, the largest first."""
        every = self._faces(frame, pixels)
        sure = [face for face in every if face.score >= self.settings.min_score]
        if not sure:
            # What stands before the colon is counted together in the summary.
            best = f"no face sure enough: {max(face.score for face in every):.2f} at most" if every else "no face found"
            raise Unusable(best)
        cut: list[tuple[Face | None, np.ndarray]] = []
        fault = ""
        how = self.settings
        for face in sorted(sure, key=lambda face: -face.size):
            try:
                fault = unfit(face, how, pixels)
                if not fault:
                    cut.append((face, cut_out(pixels, face, how.size, align=how.align, margin=how.margin)))
            except ValueError as error:
                fault = str(error)
        if not cut:
            raise Unusable(fault)
        return cut


@dataclass(frozen=True)
class Detected(_Cut):
    """Faces that a detector finds; each thread has one of its own.

    Raises:
        UserInputError: if it cannot be made.
    """

    _local: threading.local = field(default_factory=threading.local, repr=False)

    def __post_init__(self) -> None:
        self._detector()

    def _detector(self) -> Detector:
        if not hasattr(self._local, "detector"):
            weights = Path(self.settings.weights) if self.settings.weights else None
            self._local.detector = make_detector(self.settings.detector, weights=weights, device=self.settings.device)
        detector: Detector = self._local.detector
        return detector

    def _faces(self, frame: Frame, pixels: np.ndarray) -> list[Face]:
        return find_faces(self._detector(), pixels)


@dataclass(frozen=True)
class Listed(_Cut):
    """Faces of a table.

    Args:
        path: CSV file of py-feat, or folder of CSV files of OpenFace. names: of the inputs.

    Raises:
        UserInputError: if it cannot be read, or fits no input.
    """

    path: Path
    names: tuple[str, ...]
    _given: dict[str, list[Face]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        table = read_faces(self.path)
        images = {name.text: faces for name, faces in table.items() if not name.frame}
        rows = (match_stems if self.path.is_dir() else match_rows)(self.names, list(images), str(self.path))
        every = list(images.values())
        self._given.update((name, every[row]) for name, row in zip(self.names, rows.tolist(), strict=True) if row >= 0)
        clips = {frame_name(name, 0).rpartition("#")[0] for name in self.names}
        self._given.update(
            (name.text, faces) for name, faces in table.items() if name.frame and name.text.rpartition("#")[0] in clips
        )
        if not any(self._given.values()):
            raise UserInputError("no row fits an input", where=str(self.path), fix="compare the names")

    def _faces(self, frame: Frame, pixels: np.ndarray) -> list[Face]:
        if frame.number is None:
            return self._given.get(frame.input, [])
        # OpenFace counts frames from 1, py-feat from 0.
        return self._given.get(frame_name(frame.input, frame.number + self.path.is_dir()), [])


@dataclass(frozen=True)
class CropCheck:
    """What a detector makes of some pictures that may be crops of faces.

    Attributes:
        looked: pictures it saw. found: those with a face. small: those whose face fills less than half of the side.
    """

    looked: int
    found: int
    small: int

    @property
    def crops(self) -> bool:
        """Whether most faces fill their pictures, or there is no face to tell by."""
        return self.small * 2 <= self.found


def crop_check(pictures: Iterable[np.ndarray], settings: PrepareSettings) -> CropCheck | None:
    """Look for faces in pictures uint8[H,W,3]; None where the detector is not installed."""
    try:
        finder = Detected(settings)
    except UserInputError:
        return None
    looked = found = small = 0
    for pixels in pictures:
        looked += 1
        try:
            faces = finder.find(Frame("", lambda: np.empty(0)), pixels)
        except Unusable:
            continue
        found += 1
        small += max(face.size for face, _ in faces if face is not None) < CROP * min(pixels.shape[:2])
    return CropCheck(looked, found, small)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes (left, top, right, bottom) share over the area of both."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (areas[0] + areas[1] - width * height)


@dataclass
class Tracker:
    """Numbers the faces of a video: one that overlaps a face of a moment ago is that face.

    Args:
        least: overlap from which two boxes are one face. patience: seconds that a face may be out of sight.
    """

    least: float = 0.3
    patience: float = 1.0
    _seen: dict[int, tuple[tuple[float, ...], float]] = field(default_factory=dict)
    _next: int = 0

    def number(self, boxes: Sequence[Sequence[float]], time: float) -> list[int]:
        """Return the number of each box of a frame at so many seconds; pairs that overlap most come first."""
        self._seen = {face: seen for face, seen in self._seen.items() if time - seen[1] <= self.patience}
        pairs = sorted(
            ((overlap(box, seen[0]), k, face) for k, box in enumerate(boxes) for face, seen in self._seen.items()),
            key=lambda pair: (-pair[0], pair[1:]),
        )
        numbers: dict[int, int] = {}
        for share, k, face in pairs:
            if share >= self.least and k not in numbers and face not in numbers.values():
                numbers[k] = face
        for k in range(len(boxes)):
            if k not in numbers:
                numbers[k], self._next = self._next, self._next + 1
        self.remember({numbers[k]: tuple(box) for k, box in enumerate(boxes)}, time)
        return [numbers[k] for k in range(len(boxes))]

    def remember(self, faces: dict[int, tuple[float, ...]], time: float) -> None:
        """Take over the boxes of numbered faces at so many seconds."""
        self._seen.update((face, (box, time)) for face, box in faces.items())
        self._next = max([self._next, *(face + 1 for face in faces)])
