"""Pictures and videos with a box round every face, its class and how sure that is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fercore.datasets.prepare.one import write_image
from fercore.errors import UserInputError
from fercore.prediction.inputs import Frame, Inputs, names_of
from fercore.prediction.tables import Row
from fercore.prediction.video import Video, av_package
from fercore.writing import make_parents, refuse_taken, whole

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
"""One a face in turn: those of Okabe and Ito, which colour-blind people tell apart."""
CODECS = ("libx264", "mpeg4")


class Annotator:
    """Draws on pictures and writes them.

    Args:
        path: a new .mp4 for the one video among the inputs, or a folder for all of them. inputs: what is drawn on.

    Raises:
        UserInputError: if it cannot be written, or is no place for these inputs.
    """

    def __init__(self, path: Path, inputs: Inputs) -> None:
        self._path, self._one = path, path.suffix.lower() == ".mp4"
        self._videos = {names_of(one)[0]: one for one in inputs.sources if isinstance(one, Video)}
        if self._one:
            if len(inputs.sources) != 1 or not self._videos:
                fix = "give one video, or a folder as --annotate"
                raise UserInputError("one .mp4 for inputs that are not one video", where=str(path), fix=fix)
            refuse_taken(path)
        elif path.suffix:
            raise UserInputError(f"unknown {path.suffix!r}", where=str(path), fix="give an .mp4 or a folder")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserInputError("not a new folder", where=str(path), fix="choose another --annotate")
        self._names: set[str] = set()
        self._stack, self._open = ExitStack(), ""
        self._writer: VideoWriter | None = None

    def draw(self, frame: Frame, pixels: np.ndarray | None, rows: Sequence[Row]) -> None:
        """Draw the faces of a frame uint8[H,W,3], where it could be read, and write it.

        Raises:
            WriteError: if it cannot be written.
        """
        if pixels is None:
            return
        drawn = drawn_on(pixels, rows)
        if frame.number is None:
            target = self._path / self._name(frame.input, ".png")
            make_parents(target)
            write_image(drawn, target, "png")
            return
        if frame.input != self._open:
            self.close()
            target = self._path if self._one else self._path / self._name(frame.input, ".mp4")
            make_parents(target)
            rate = self._videos[frame.input].rate() if frame.input in self._videos else 25.0
            self._writer = self._stack.enter_context(VideoWriter(target, rate))
            self._open = frame.input
        if self._writer is not None:
            self._writer.write(drawn)

    def close(self) -> None:
        """End the video that is being written.

        Raises:
            WriteError: if that fails.
        """
        self._stack.close()
        self._writer, self._open = None, ""

    def _name(self, source: str, suffix: str) -> str:
        """Return a file name for an input that no other has; a sample's key may be a path."""
        stem = os.path.splitext(os.path.basename(source.replace("#", "_")))[0]
        name, number = f"{stem}{suffix}", 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}{suffix}"
        self._names.add(name)
        return name


class VideoWriter:
    """Writes pictures as an MP4 without sound; the file takes its name when the writer is closed.

    Args:
        path: the file. rate: pictures a second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, Fraction(rate).limit_denominator(1001)
        self._stack = ExitStack()
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, pixels: np.ndarray) -> None:
        """Write a picture uint8[H,W,3]; all get the size of the first, cut to even sides as the codec wants.

        Raises:
            WriteError: if it cannot be written.
        """
        av = av_package()
        height, width = (side - side % 2 for side in pixels.shape[:2])
        if self._container is None:
            file = self._stack.enter_context(whole(self._path))
            self._container = self._stack.enter_context(av.open(file, "w", format="mp4"))
            codec = next(name for name in CODECS if name in av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        if (width, height) != (self._stream.width, self._stream.height):
            frame = frame.reformat(self._stream.width, self._stream.height)
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *error: Any) -> None:
        with self._stack:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))


def drawn_on(pixels: np.ndarray, rows: Sequence[Row]) -> np.ndarray:
    """Return a picture uint8[H,W,3] with a box, a class and its probability round every face."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    line = max(1, round(min(picture.size) / 200))
    font = ImageFont.load_default(max(10, round(min(picture.size) / 24)))
    for row in rows:
        if row.box is None or not row.probs:
            continue
        colour = COLOURS[(row.face or 0) % len(COLOURS)]
        left, top, right, bottom = row.box
        right, bottom = min(right, picture.width - 1), min(bottom, picture.height - 1)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        text = f"{row.prediction} {max(row.probs):.0%}"
        place = max(0.0, left), max(0.0, top)
        draw.rectangle(draw.textbbox(place, text, font=font), fill=(0, 0, 0))
        draw.text(place, text, fill=(255, 255, 255), font=font)
    return np.asarray(picture)
