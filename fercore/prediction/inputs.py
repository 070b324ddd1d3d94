"""What is predicted on: image files, folders, patterns, SPECs, lists on standard input and videos, as one stream."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fercore.data.domains.domain_set import read_chosen
from fercore.data.images.codecs import HEAD, IMAGE_SUFFIXES, Unusable, is_picture
from fercore.data.images.readers import decode_image, file_bytes
from fercore.data.images.scaling import Scaling
from fercore.data.spec import is_spec, parse_spec
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.files import file_kind, open_regular
from fercore.prediction.video import Stride, Video, is_video

if TYPE_CHECKING:
    from PIL.Image import Image

WHERE = "INPUT"
FIX = "give images, folders, patterns, videos, FORMAT:PATH, or - for paths on standard input"


@dataclass(frozen=True)
class Frame:
    """One picture: an image, or a frame of a video or camera.

    Attributes:
        input: name of the file, or key of a dataset's sample. part: of a dataset, "" = none.
        number, time: of a frame, counted from 0, and its seconds; None for images.
        read: returns uint8[H,W,3], RGB, or a PIL image of it; raises Unusable or UserInputError. Any thread may call
            it.
    """

    input: str
    read: Callable[[], np.ndarray | Image]
    part: str = ""
    number: int | None = None
    time: float | None = None


class Clip(Protocol):
    """Frames one after another: a video, or a camera."""

    @property
    def path(self) -> str:
        """Return what tables call it."""

    def __len__(self) -> int:
        """Return how many frames there are; 0 = nobody knows."""

    def frames(self, after: int = -1) -> Iterator[tuple[int, float | None, Callable[[], np.ndarray]]]:
        """Yield (number, seconds, what reads the pixels) of frames after a number."""


@dataclass(frozen=True)
class Inputs:
    """Everything to predict on, in order.

    Attributes:
        sources: an image's path, a clip, or a dataset. scaling: how images of one channel become 8 bits.
        ignored: files of folders that are neither image nor video.
    """

    sources: tuple[str | Clip | Table, ...]
    scaling: Scaling | None = None
    ignored: int = 0

    @property
    def total(self) -> int:
        """How many frames there are; of videos as many as they say."""
        return sum(1 if isinstance(one, str) else len(one) for one in self.sources)

    @property
    def names(self) -> list[str]:
        """Names of the images and videos."""
        names: list[str] = []
        for one in self.sources:
            names.extend(names_of(one))
        return names

    def __iter__(self) -> Iterator[Frame]:
        return self.frames({}, "")

    def spread(self, most: int) -> Iterator[Frame]:
        """Yield the first frames of so many inputs from all over the list: what comes first is often of one folder."""
        if len(self.sources) <= most:
            yield from islice(self, most)
            return
        for at in np.linspace(0, len(self.sources) - 1, most).round().astype(int).tolist():
            yield from islice(Inputs((self.sources[at],), self.scaling), 1)

    def frames(self, done: dict[str, int], whole: str) -> Iterator[Frame]:
        """Yield the frames that are not done.

        Args:
            done: number of the last frame that is done of each input, -1 for an image.
            whole: the input of which frames after that may be missing; all others in `done` have none to come.
        """
        for one in self.sources:
            if isinstance(one, Table):
                for i, key in enumerate(names_of(one)):
                    if key not in done:
                        yield Frame(key, _reading(one, i), part=one.split[i])
                continue
            (name,) = names_of(one)
            if isinstance(one, str):
                if name not in done:
                    yield Frame(name, _decoding(one, self.scaling))
            elif name not in done or name == whole:
                for number, time, read in one.frames(after=done.get(name, -1)):
                    yield Frame(name, read, number=number, time=time)


def names_of(source: str | Clip | Table) -> Sequence[str]:
    """Return what tables call the frames of a source, or of a clip all of them: text that can be written and read back.

    Bytes of a file's name that are no UTF-8 are spelled out.
    """
    names = (source,) if isinstance(source, str) else source.keys if isinstance(source, Table) else (source.path,)
    return [name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names]


def _reading(table: Table, i: int) -> Callable[[], np.ndarray]:
    return lambda: table.read(i)


def _decoding(path: str, scaling: Scaling | None) -> Callable[[], Image]:
    return lambda: decode_image(file_bytes(path), scaling)


def find_inputs(texts: Sequence[str], *, stride: Stride, scaling: Scaling | None) -> Inputs:
    """Return what INPUT arguments mean; every file is taken once.

    Args:
        texts: as the command line has them. stride: which frames of videos are taken.

    Raises:
        UserInputError: for one that is nothing of all that, or a folder or pattern that nothing is found by.
    """
    sources: list[str | Table] = []
    ignored = 0
    for text in texts:
        if text == "-":
            listed = [line.rstrip("\r\n") for line in sys.stdin]
            sources += [path for path in listed if path.strip()]
        elif os.path.isdir(text):
            inside, others = _folder(text)
            sources.extend(inside)
            ignored += others
        elif os.path.exists(text):
            sources.append(_file(text))
        elif is_spec(text):
            sources.append(read_chosen(parse_spec(text))[0])
        elif glob.has_magic(text):
            sources += _pattern(text)
        else:
            raise UserInputError("input not found", where=text, fix=FIX)
    if not sources:
        raise UserInputError("no input", where=WHERE, fix=FIX)
    once: dict[str | int, str | Table] = {}
    for one in sources:
        once.setdefault(os.path.normpath(one) if isinstance(one, str) else id(one), one)
    opened = (Video(one, stride) if isinstance(one, str) and is_video(one) else one for one in once.values())
    return Inputs(tuple(opened), scaling, ignored)


def shards_of(inputs: Sequence[str], *, stride: Stride, size: int) -> Iterator[list[str]]:
    """Yield INPUT arguments of one file each, `size` at a time, in order and every file once; a SPEC goes alone.

    Raises:
        UserInputError: as `find_inputs`.
    """
    taken: set[str] = set()
    held: list[str] = []
    for text in inputs:
        if not os.path.exists(text) and text != "-" and is_spec(text):
            if held:
                yield held
            held = []
            yield [text]
            continue
        for source in find_inputs([text], stride=stride, scaling=None).sources:
            (name,) = names_of(source)
            path = source if isinstance(source, str) else name
            if os.path.normpath(path) not in taken:
                taken.add(os.path.normpath(path))
                held.append(path)
            if len(held) == size:
                yield held
                held = []
    if held:
        yield held


def _folder(path: str) -> tuple[list[str], int]:
    """Return the images and videos below a folder, sorted, and how many other files there are."""
    usable, others = [], 0
    for folder, inner, files in os.walk(path):
        inner.sort()
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES or is_video(name):
                usable.append(os.path.join(folder, name))
            else:
                others += 1
    if not usable:
        raise UserInputError("no image and no video in the folder", where=path, fix=FIX)
    return usable, others


def _pattern(text: str) -> list[str]:
    matches = sorted(path for path in glob.glob(text, recursive=True) if not os.path.isdir(path))
    if not matches:
        raise UserInputError("no file fits the pattern", where=text, fix=FIX)
    return matches


def _file(path: str) -> str:
    """Return a file that its name or its first bytes say to be an image or a video."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or is_video(path):
        return path
    try:
        with open_regular(path) as file:
            if is_picture(file.read(HEAD)):
                return path
            what = "neither image, video nor SPEC"
    except OSError as error:
        what = f"cannot be read: {error.strerror or file_kind(Path(path).stat().st_mode)}"
    raise UserInputError(what, where=path, fix=FIX)


def read_frame(frame: Frame) -> np.ndarray | Image:
    """Return the pixels of a frame, uint8[H,W,3], or a PIL image of them.

    Raises:
        Unusable: if it cannot be read; says why in a few words.
    """
    try:
        return frame.read()
    except UserInputError as error:
        raise Unusable(error.what.removeprefix("unusable image: ")) from None
