"""Which row of an action-unit file belongs to which sample: by the image's name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fercore.data.fingerprint import common_folder
from fercore.errors import UserInputError

AMBIGUOUS = -2

NUMBERED = re.compile(r"(.*?)([0-9]{1,9})", re.ASCII | re.DOTALL)
"""A sample's name without its suffix: what is before the number at its end, and the number."""

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"})

MORE = "name the images in more detail"


def match_rows(keys: Sequence[str], images: Sequence[str], where: str) -> np.ndarray:
    """Return int64[n]: the row of each sample, -1 where there is none.

    A row belongs to a sample if it names it in full, and then to no other; else if either name ends with the whole of
    the other ("anger/1.png" and "/data/anger/1.png"), or if both agree below the folder that all names of their table
    begin with.

    Args:
        keys: names of the samples. images: different names (`plain_name`) of the file's rows. where: the file, for
            messages.

    Raises:
        UserInputError: if two rows fit one sample equally well, or one row fits two samples.
    """
    keys, images = [plain_name(key) for key in keys], [plain_name(image) for image in images]
    samples = set(keys)
    exact = {image: row for row, image in enumerate(images)}
    # A row that names a sample in full belongs to it alone, and fits no other by its ending.
    free = {image: row for image, row in exact.items() if image not in samples}
    longer = _endings(free)
    shared, theirs = len(common_folder(tuple(keys))), len(common_folder(tuple(images)))
    below = {image[theirs:]: row for image, row in free.items()}
    rows = np.full(len(keys), -1, dtype=np.int64)
    owners: dict[int, str] = {}
    for i, key in enumerate(keys):
        # From the surest to the loosest: the full name, the row as an ending of the sample,
        # the sample as an ending of the row, then the same place below the two common folders.
        match = exact.get(key, -1)
        if match == -1:
            match = next((free[end] for end in _suffixes(key) if end in free), -1)
        if match == -1:
            match = longer.get(key, -1)
        if match == AMBIGUOUS:
            raise UserInputError(f"two rows fit the image {key!r}", where=where, fix=MORE)
        rows[i] = match = below.get(key[shared:], -1) if match == -1 else match
        if match >= 0 and owners.setdefault(match, key) != key:
            raise _fits_two(images[match], owners[match], key, where)
    return rows


def match_stems(keys: Sequence[str], images: Sequence[str], where: str) -> np.ndarray:
    """Return the row of each sample, as `match_rows`, where the rows' names have no suffix ("anger/1").

    Raises:
        UserInputError: as `match_rows`, or if one row fits samples that differ in their suffix.
    """
    stems = [os.path.splitext(plain_name(key))[0] for key in keys]
    rows = match_rows(stems, images, where)
    _refuse_shared(keys, images, rows, where)
    return rows


def is_video(name: str) -> bool:
    """Return whether a row's name is that of a video, so that the row is one of its frames."""
    return os.path.splitext(name.strip())[1].lower() in VIDEOS


def frame_name(file: str, number: int) -> str:
    """Return the name of a frame's row: its clip (the file's name without folders and suffix) and its number."""
    return f"{os.path.splitext(plain_name(file).rpartition('/')[2])[0]}#{number}"


def match_frames(keys: Sequence[str], images: Sequence[str], where: str) -> np.ndarray:
    """Return the row of each sample, -1 where there is none, of rows that are frames of clips.

    The number at the end of a sample's name is the frame's: "anger/clip_0012.png" and "clip/12.png" are frame 12 of
    clip. A file of one clip needs no name of the clip in the samples' names.

    Args:
        keys: names of the samples. images: names of rows (`frame_name`). where: the file, for messages.

    Raises:
        UserInputError: if a row fits two samples, or images are numbered beyond the clip's frames, so that they may
            have been counted from another number on.
    """
    at = {image: row for row, image in enumerate(images)}
    frames: dict[str, list[int]] = {}
    for image in images:
        owner, _, number = image.rpartition("#")
        frames.setdefault(owner, []).append(int(number))
    rows = np.full(len(keys), -1, dtype=np.int64)
    for i, key in enumerate(keys):
        numbered = NUMBERED.fullmatch(os.path.splitext(plain_name(key))[0])
        clip = None if numbered is None else _clip_of(numbered[1], frames)
        if numbered is None or clip is None:
            continue
        at_image = int(numbered[2])
        if not min(frames[clip]) <= at_image <= max(frames[clip]):
            what = f"image {key!r} is numbered beyond the frames {min(frames[clip])} to {max(frames[clip])} of {clip!r}"
            fix = "number images as the frames are, or add a column 'path' that names them"
            raise UserInputError(what, where=where, fix=fix)
        rows[i] = at.get(f"{clip}#{at_image}", -1)
    _refuse_shared(keys, images, rows, where)
    return rows


def _clip_of(name: str, clips: Mapping[str, Sequence[int]]) -> str | None:
    """Return the clip that a sample's name, its number left out, belongs to."""
    *folders, last = name.split("/")
    named = [part for part in (last.rstrip("_-. "), *reversed(folders)) if part in clips]
    return named[0] if named else next(iter(clips)) if len(clips) == 1 else None


def _refuse_shared(keys: Sequence[str], images: Sequence[str], rows: np.ndarray, where: str) -> None:
    owners: dict[int, str] = {}
    for key, row in zip(keys, rows.tolist(), strict=True):
        if row >= 0 and owners.setdefault(row, key) != key:
            raise _fits_two(images[row], owners[row], key, where)


def _fits_two(row: str, one: str, other: str, where: str) -> UserInputError:
    return UserInputError(f"row {row!r} fits two images, {one!r} and {other!r}", where=where, fix=MORE)


def plain_name(name: str) -> str:
    r"""Return one spelling of a path: "a/1.png" for "./a/1.png", "a//1.png" and "a\1.png"."""
    path = name.strip().replace("\\", "/")
    root = "/" if path.startswith("/") else ""
    return root + "/".join(part for part in path.split("/") if part not in ("", "."))


def _suffixes(name: str) -> Iterator[str]:
    """Yield what remains of a path as leading folders go, the longest first."""
    while "/" in name:
        name = name.split("/", 1)[1]
        if name:
            yield name


def _endings(images: Mapping[str, int]) -> dict[str, int]:
    by_ending: dict[str, int] = {}
    for image, row in images.items():
        for end in _suffixes(image):
            by_ending[end] = AMBIGUOUS if end in by_ending else row
    return by_ending
