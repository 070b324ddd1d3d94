"""From frames to answers in constant memory: threads decode and look for faces, batches go through the network.

Frame by frame in the order they come; what waits between the stages is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np

from fercore.data.images.codecs import Unusable
from fercore.datasets.prepare.faces import Face
from fercore.prediction.action_units import ActionUnits
from fercore.prediction.faces import Finder, Whole
from fercore.prediction.inputs import Frame, read_frame
from fercore.prediction.predictor import Predictor

AHEAD = 4
"""Pieces of work a worker that are done before their turn."""
PIECE = 8
"""Image files that a worker reads at once, where of each only a crop is kept: small ones take less than a hand-over."""
HELD = 2**28
"""Bytes of whole pictures that one batch holds on to, where they are drawn on afterwards."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, eq=False)
class Looked:
    """A frame that was read.

    Attributes:
        crops: uint8[F,3,S,S] for the network. faces: where each is, None = the picture itself.
        width, height: of the picture, pixels. refused: why there is no face. pixels: uint8[H,W,3], where wanted.
    """

    frame: Frame
    faces: tuple[Face | None, ...] = ()
    crops: np.ndarray | None = None
    width: int = 0
    height: int = 0
    refused: str = ""
    pixels: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says of the faces of a frame: probs float[F,K], features branch -> float[F,D]."""

    looked: Looked
    probs: np.ndarray
    features: dict[str, np.ndarray]


def pieces(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    """Yield frames by so many at once; one of a video alone, for it is decoded, and large, before a worker has it."""
    held: list[Frame] = []
    for frame in frames:
        alone = frame.number is not None
        if held and (alone or len(held) >= size):
            yield held
            held = []
        held.append(frame)
        if alone:
            yield held
            held = []
    if held:
        yield held


def ordered(function: Callable[[A], B], items: Iterable[A], workers: int, ahead: int = AHEAD) -> Iterator[B]:
    """Yield function(item) of every item, in order, worked out by threads `ahead` items a thread in advance."""
    waiting: deque[Future[B]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fercore-decode")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def answers(
    predictor: Predictor,
    frames: Iterable[Frame],
    finder: Finder,
    *,
    workers: int,
    units: ActionUnits | None = None,
    flip: bool = False,
    keep_pixels: bool = False,
    live: bool = False,
) -> Iterator[list[Answer]]:
    """Yield what a model says of frames, in order, those of a batch at once.

    Args:
        finder: finds faces. workers: threads that decode. units: action units of them, for models that read such.
        flip: see `Predictor.answer`.
        keep_pixels: whether `Looked.pixels` is wanted. live: whether each frame is answered before the next one is
            taken; else they go in batches of the run's evaluation.
    """
    whole = isinstance(finder, Whole) and not keep_pixels

    def look(frame: Frame) -> Looked:
        try:
            picture = read_frame(frame)
            if whole and not isinstance(picture, np.ndarray):
                # Nobody looks at its pixels but the resizer, which takes it as it was decoded.
                crops = predictor.fit(picture)[None]
                return Looked(frame, (None,), crops, *picture.size)
            pixels = np.asarray(picture, dtype=np.uint8)
            height, width = pixels.shape[:2]
            kept = pixels if keep_pixels else None
            try:
                cuts = finder.find(frame, pixels)
            except Unusable as error:
                return Looked(frame, width=width, height=height, refused=str(error), pixels=kept)
            if units is not None and (fault := units.fault(frame, len(cuts))):
                return Looked(frame, width=width, height=height, refused=fault, pixels=kept)
            crops = np.stack([predictor.fit(cut) for _, cut in cuts])
            return Looked(frame, tuple(face for face, _ in cuts), crops, width, height, pixels=kept)
        except Unusable as error:
            return Looked(frame, refused=str(error))

    size = 1 if live else predictor.record.evaluation.batch
    held: list[Looked] = []
    faces = pixels = 0
    work = pieces(frames, PIECE if whole else 1)
    done = ordered(lambda some: [look(frame) for frame in some], work, 1 if live else workers, 1 if live else AHEAD)
    for looked in chain.from_iterable(done):
        held.append(looked)
        faces += len(looked.faces)
        pixels += 0 if looked.pixels is None else looked.pixels.nbytes
        # Frames without a face fill no batch: they are not held back for ever, nor whole pictures without bound.
        if live or faces >= size or len(held) >= 4 * size or pixels >= HELD:
            yield _answered(predictor, held, units, flip, size)
            held, faces, pixels = [], 0, 0
    if held:
        yield _answered(predictor, held, units, flip, size)


def _answered(
    predictor: Predictor, held: list[Looked], units: ActionUnits | None, flip: bool, size: int
) -> list[Answer]:
    """Run the faces of some frames through the network, at most `size` at a time."""
    crops = [looked.crops for looked in held if looked.crops is not None]
    every = np.concatenate(crops) if crops else np.zeros((0, 3, 1, 1), dtype=np.uint8)
    frames = [looked.frame for looked in held for _ in looked.faces]
    parts = []
    for start in range(0, len(every), size):
        some = slice(start, start + size)
        extras = None if units is None else units.extras(frames[some], every[some])
        parts.append(predictor.answer(every[some], extras=extras, flip=flip))
    probs = np.concatenate([part.probs for part in parts]) if parts else np.zeros((0, len(predictor.classes)))
    names = parts[0].features if parts else {}
    features = {name: np.concatenate([part.features[name] for part in parts]) for name in names}
    start, answered = 0, []
    for looked in held:
        part = slice(start, start + len(looked.faces))
        start = part.stop
        answered.append(Answer(looked, probs[part], {name: values[part] for name, values in features.items()}))
    return answered
