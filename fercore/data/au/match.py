"""Which row of an action-unit file belongs to which sample: by the image's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fercore.data.fingerprint import common_folder
from fercore.errors import UserInputError

AMBIGUOUS = -2


def match_rows(keys: Sequence[str], images: Sequence[str], where: str) -> np.ndarray:
    """Return int64[n]: the row of each sample, -1 where there is none.

    A row belongs to a sample if it names it in full, if either name ends with the whole of the other ("anger/1.png" and
    "/data/anger/1.png"), or if both agree below the folder that all names of their table begin with.

    Args:
        keys: names of the samples. images: names of the file's rows. where: the file, for messages.

    Raises:
        UserInputError: if two rows fit one sample equally well.
    """
    keys, images = [_plain(key) for key in keys], [_plain(image) for image in images]
    exact = {image: row for row, image in enumerate(images)}
    longer = _endings(images)
    shared, theirs = len(common_folder(tuple(keys))), len(common_folder(tuple(images)))
    below = {image[theirs:]: row for row, image in enumerate(images)}
    rows = np.full(len(keys), -1, dtype=np.int64)
    for i, key in enumerate(keys):
        found = exact.get(key, -1)
        if found == -1:
            found = next((exact[end] for end in _suffixes(key) if end in exact), -1)
        if found == -1:
            found = longer.get(key, -1)
        if found == AMBIGUOUS:
            fix = "name the images in more detail"
            raise UserInputError(f"two rows fit the image {key!r}", where=where, fix=fix)
        rows[i] = below.get(key[shared:], -1) if found == -1 else found
    return rows


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/").removeprefix("./")


def _suffixes(name: str) -> Iterator[str]:
    """Yield what remains of a path as leading folders go, the longest first."""
    while "/" in name:
        name = name.split("/", 1)[1]
        if name:
            yield name


def _endings(images: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row, image in enumerate(images):
        for end in _suffixes(image):
            found[end] = AMBIGUOUS if end in found else row
    return found
