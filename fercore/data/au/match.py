"""Which row of an action-unit file belongs to which sample: by the image's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fercore.data.fingerprint import common_folder
from fercore.errors import UserInputError

AMBIGUOUS = -2

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
    free = {image: row for image, row in exact.items() if image not in samples}
    longer = _endings(free)
    shared, theirs = len(common_folder(tuple(keys))), len(common_folder(tuple(images)))
    below = {image[theirs:]: row for image, row in free.items()}
    rows = np.full(len(keys), -1, dtype=np.int64)
    owners: dict[int, str] = {}
    for i, key in enumerate(keys):
        found = exact.get(key, -1)
        if found == -1:
            found = next((free[end] for end in _suffixes(key) if end in free), -1)
        if found == -1:
            found = longer.get(key, -1)
        if found == AMBIGUOUS:
            raise UserInputError(f"two rows fit the image {key!r}", where=where, fix=MORE)
        rows[i] = found = below.get(key[shared:], -1) if found == -1 else found
        if found >= 0 and owners.setdefault(found, key) != key:
            what = f"row {images[found]!r} fits two images, {owners[found]!r} and {key!r}"
            raise UserInputError(what, where=where, fix=MORE)
    return rows


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
    found: dict[str, int] = {}
    for image, row in images.items():
        for end in _suffixes(image):
            found[end] = AMBIGUOUS if end in found else row
    return found
