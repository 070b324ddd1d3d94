"""SynthFER as a dataset: what is known of every image without rendering it, and rendering on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fercore.data.labels import CANONICAL
from fercore.errors import UserInputError, did_you_mean
from fercore.synthfer.emotions import Expression, detector_scores, express, mistaken
from fercore.synthfer.names import STYLES
from fercore.synthfer.painting.face import Face
from fercore.synthfer.painting.render import build_face, photograph
from fercore.synthfer.rng import Draw
from fercore.synthfer.styles import NATURAL_PRIOR, TABLE

BATCH = 64
_SUBJECTS, _PER_SUBJECT = 10, 20
_PRIORS = ("balanced", "natural")


@dataclass(frozen=True)
class Sample:
    """One image u8[H,W,3] with its annotated label, AU intensities f32[17], AU scores f32[17], landmarks f32[68,2]."""

    image: NDArray[np.uint8]
    label: int
    au_intensity: NDArray[np.float32]
    au_scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    subject: str


class SynthFER:
    """A domain of drawn faces. Image i depends on style, seed, size, classes, prior and i alone, not on n.

    Args:
        style: one of STYLES.
        n: number of images.
        seed: another seed gives other subjects and other images.
        size: height and width in pixels; None is 48 for web and 64 for the others.
        classes: emotions, in the order that labels count them.
        prior: "balanced" (equal class counts, shuffled) or "natural" (as skewed as real collections of the kind).

    Attributes:
        labels: i64[n] annotated label, an index into classes; wrong for some images of web and wild.
        true_labels: i64[n] the emotion that is drawn.
        subjects: name of each image's subject; ten subjects for every 200 images, at least ten from ten images on.
        au_intensity: f32[n,17] FACS intensities in [0,5].
        au_scores: f32[n,17] in [0,1] from a fallible detector; 0.5 and more says present.
    """

    def __init__(
        self,
        style: str,
        n: int = 1000,
        seed: int = 0,
        size: int | None = None,
        classes: Sequence[str] = CANONICAL[:7],
        prior: str = "balanced",
    ) -> None:
        _check(style, n, size, classes, prior)
        self.style, self.n, self.seed, self.prior = style, int(n), int(seed), prior
        self.size = (48 if style == "web" else 64) if size is None else int(size)
        self.classes = tuple(classes)
        index = np.arange(self.n, dtype=np.int64)
        self._person = self._subject_numbers(index)
        self._image = Draw("image", style, self.seed, index)
        self.labels = self._draw_labels(index)
        self.subjects = [f"{style}-{self.seed}-{number:04d}" for number in self._person.tolist()]
        self._express()

    def _express(self) -> None:
        """Draw what the faces really show and what the detector makes of it."""
        traits = TABLE[self.style]
        canonical = np.asarray([CANONICAL.index(name) for name in self.classes], dtype=np.int64)
        shown = mistaken(canonical[self.labels], canonical.tolist(), traits.label_noise, self._image)
        place = np.full(len(CANONICAL), -1, dtype=np.int64)
        place[canonical] = np.arange(len(canonical))
        # Labels are drawn first and the wrong ones decide what is
        # painted instead: counts of annotated labels stay as asked for.
        self.true_labels: NDArray[np.int64] = place[shown]
        habit = self._subject_draw(self._person).uniform("expressivity", *traits.expressivity)
        strength = self._image.uniform("strength", *traits.strength) * habit
        self._expression = express(shown, strength, traits.stray, self._image)
        self.au_intensity: NDArray[np.float32] = self._expression.intensity.astype(np.float32)
        scores = detector_scores(self._expression.intensity, traits.detector, self._image)
        self.au_scores: NDArray[np.float32] = scores.astype(np.float32)

    def _subject_numbers(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return i64[n]: each run of ten images shows ten subjects in random order, each 200 images ten new ones."""
        order = _shuffled(Draw("subjects", self.style, self.seed, index // _SUBJECTS), _SUBJECTS, index % _SUBJECTS)
        # Not from n: image i shows the same subject however many images there are.
        return index // (_SUBJECTS * _PER_SUBJECT) * _SUBJECTS + order

    def _subject_draw(self, person: NDArray[np.int64]) -> Draw:
        return Draw("subject", self.style, self.seed, person)

    def _draw_labels(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.prior == "natural":
            weights = [NATURAL_PRIOR[self.style][CANONICAL.index(name)] for name in self.classes]
            return self._image.choice("label", weights)
        count = len(self.classes)
        return _shuffled(Draw("labels", self.style, self.seed, index // count), count, index % count)

    def __len__(self) -> int:
        return self.n

    def _face(self, index: NDArray[np.int64]) -> Face:
        """Return the faces of the images of i64[B]."""
        part = Expression(self._expression.intensity[index], self._expression.balance[index])
        subject, image = self._subject_draw(self._person[index]), Draw("image", self.style, self.seed, index)
        return build_face(self.style, subject, image, part, self.size)

    def _check_indices(self, indices: Sequence[int]) -> NDArray[np.int64]:
        index = np.asarray(indices, dtype=np.int64).reshape(-1)
        if index.size and (index.min() < -self.n or index.max() >= self.n):
            raise IndexError(f"SynthFER {self.style} has {self.n} images, got index {index[np.abs(index).argmax()]}")
        return index % self.n

    def render(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the images at the indices, u8[len,H,W,3] RGB; grey styles repeat their channel."""
        index = self._check_indices(indices)
        images = np.empty((len(index), self.size, self.size, 3), dtype=np.uint8)
        for start in range(0, len(index), BATCH):
            # In parts of a fixed size: memory grows with the part, and numbers do not depend on it.
            images[start : start + BATCH] = photograph(self._face(index[start : start + BATCH]), self.style)
        return images

    def landmarks(self, indices: Sequence[int]) -> NDArray[np.float32]:
        """Return the usual 68 facial landmarks at the indices, f32[len,68,2] as (x, y) in pixels."""
        index = self._check_indices(indices)
        if not index.size:
            return np.empty((0, 68, 2), dtype=np.float32)
        return self._face(index).points[:, :68].astype(np.float32)

    def __getitem__(self, i: int) -> Sample:
        index = self._check_indices([i])
        face, at = self._face(index), int(index[0])
        return Sample(
            image=photograph(face, self.style)[0],
            label=int(self.labels[at]),
            au_intensity=self.au_intensity[at],
            au_scores=self.au_scores[at],
            landmarks=face.points[0, :68].astype(np.float32),
            subject=self.subjects[at],
        )


def _shuffled(draw: Draw, count: int, position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the entry at a position i64[N] of each item's own random order of 0..count-1."""
    # Sorting random numbers shuffles each item by itself.
    lots = np.stack([draw.uniform(f"lot/{k}") for k in range(count)], axis=1)
    return np.argsort(lots, axis=1, kind="stable")[np.arange(len(position)), position]


def _check(style: str, n: int, size: int | None, classes: Sequence[str], prior: str) -> None:
    """Raise UserInputError for a setting that SynthFER cannot serve."""
    where = "synthfer"
    if style not in STYLES:
        raise UserInputError(f"unknown style {style!r}", where=where, fix=did_you_mean(style, STYLES))
    if prior not in _PRIORS:
        raise UserInputError(f"unknown prior {prior!r}", where=where, fix=did_you_mean(prior, _PRIORS))
    for name in classes:
        if name not in CANONICAL:
            raise UserInputError(f"unknown class {name!r}", where=where, fix=did_you_mean(name, CANONICAL))
    if not classes or len(set(classes)) != len(classes):
        raise UserInputError("classes must be different names, at least one", where=where)
    if n <= 0:
        raise UserInputError(f"n must be at least 1, got {n}", where=where)
    if size is not None and size < 16:
        raise UserInputError(f"size must be at least 16 pixels, got {size}", where=where)
