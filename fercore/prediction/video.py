"""Frames of a video file, one at a time, by PyAV (the extra `video`)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from fercore.au.match import is_video
from fercore.data.images.codecs import MAX_PIXELS, Unusable
from fercore.errors import UserInputError
from fercore.files import open_regular

__all__ = ["Read", "Stride", "Video", "av_package", "is_video"]

Read: TypeAlias = Callable[[], np.ndarray]
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv"
"""Containers that are read. Others, playlists among them, would open whatever files and addresses they name."""
MISSING = 0.02
"""Share of the frames that a container may promise and not hold: containers round."""


@dataclass(frozen=True)
class Stride:
    """Which frames of a video are taken: every so many, or so many a second; both at their defaults take all."""

    every: int = 1
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserInputError(f"every {self.every} frames", where="--every", fix="give a whole number from 1 up")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise UserInputError(f"{self.fps} frames a second", where="--fps", fix="give a number above 0")
        if self.fps is not None and self.every > 1:
            raise UserInputError("--every and --fps at once", fix="give one of them")


def av_package() -> Any:
    """Return the package that decodes videos.

    Raises:
        UserInputError: if it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        what = f"videos need the package av ({error})"
        raise UserInputError(what, where="INPUT", fix="pip install 'fercore[video]'") from None


@dataclass(frozen=True)
class Video:
    """A video file.

    Args:
        path: the file. stride: which frames are taken.
    """

    path: str
    stride: Stride = field(default_factory=Stride)

    def __len__(self) -> int:
        """Return how many frames are taken, as its container says; at least 1."""
        try:
            with self._opened() as (container, stream):
                count, seconds = self._promised(container, stream)
        except Unusable:
            return 1
        if self.stride.fps is not None and seconds:
            return max(1, min(count or round(seconds * self.stride.fps), round(seconds * self.stride.fps)))
        return max(1, -(-count // self.stride.every))

    def rate(self) -> float:
        """Return the frames a second that are taken.

        Raises:
            Unusable: if the file cannot be opened.
        """
        with self._opened() as (_, stream):
            own = float(stream.average_rate or 25)
        return min(own, self.stride.fps) if self.stride.fps is not None else own / self.stride.every

    def frames(self, after: int = -1) -> Iterator[tuple[int, float | None, Read]]:
        """Yield (number from 0, seconds, what reads the pixels) of the frames taken, after a number.

        A file that cannot be read, or not to its end, ends with a frame whose reading says so.
        """
        number, promised = -1, 0
        try:
            with self._opened() as (container, stream):
                promised, _ = self._promised(container, stream)
                for number, time, frame in self._taken(container, stream):
                    if number > after and frame is not None:
                        yield number, time, _pixels(frame)
        except Unusable as error:
            yield 0, None, _failing(str(error))
        except (OSError, ValueError, MemoryError) as error:  # PyAV's errors are one of these
            yield number + 1, None, _failing(f"damaged from frame {number + 1} on: {_words(error)}")
        else:
            if number + 1 < (1 - MISSING) * promised:
                what = f"damaged or cut short: {number + 1} of {promised} frames can be decoded"
                yield number + 1, None, _failing(what)

    def _taken(self, container: Any, stream: Any) -> Iterator[tuple[int, float, Any]]:
        """Yield (number, seconds, decoded frame, None for one that is passed over) of every frame."""
        due = 0.0
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            time = float(frame.time if frame.time is not None else number / (stream.average_rate or 25))
            taken = number % self.stride.every == 0 and time >= due - 1e-6
            if taken and self.stride.fps is not None:
                due = max(due + 1 / self.stride.fps, time)
            yield number, time, frame if taken else None

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        """Open the container and its first pictures; raise Unusable if that fails or it has none."""
        av = av_package()
        try:
            file = open_regular(self.path)
        except OSError as error:
            raise Unusable(f"cannot be opened as a video: {_words(error)}") from None
        with file:
            try:
                container = av.open(file, options={"format_whitelist": DEMUXERS})
            except (OSError, ValueError) as error:
                raise Unusable(f"cannot be opened as a video: {_words(error)}") from None
            with container:
                if not container.streams.video:
                    raise Unusable("has no pictures")
                stream = container.streams.video[0]
                if stream.width * stream.height > MAX_PIXELS:
                    raise Unusable(f"too large: {stream.width}x{stream.height} pixels")
                yield container, stream

    @staticmethod
    def _promised(container: Any, stream: Any) -> tuple[int, float]:
        """Return the frames and seconds that the container says it holds; 0 = it does not say."""
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        return int(stream.frames or seconds * float(stream.average_rate or 0)), seconds


def _pixels(frame: Any) -> Read:
    """Return what converts a decoded frame, turned as its display matrix says (phones held upright)."""

    def read() -> np.ndarray:
        pixels = frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else np.asarray(pixels)

    return read


def _failing(reason: str) -> Read:
    def read() -> np.ndarray:
        raise Unusable(reason)

    return read


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
