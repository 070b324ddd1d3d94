"""Faces cut out of larger images: one row a box, several rows may share a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fercore.data.images.codecs import Unusable
from fercore.data.images.readers import (
    check_scale,
    content_digest,
    decode,
    file_bytes,
    refuse_changed,
    scaling_text,
    with_pixels,
)
from fercore.data.images.scaling import Scaling
from fercore.errors import UserInputError

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; right and bottom are the first column and row outside."""


@dataclass(frozen=True, eq=False)
class CropReader:
    """Boxes of image files.

    Args:
        paths: file of each row.
        boxes: box of each row, or None for the whole image.
        pad: share of the box's width and height that is added on every side.
        scaling: how one-channel images become 8 bits, by the whole file; None = deeper ones cannot be used.
        digests: what the preflight found each row to be; see `FileReader`.
    """

    paths: tuple[str, ...]
    boxes: tuple[Box | None, ...]
    pad: float = 0.0
    checked: bool = False
    scaling: Scaling | None = None
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> np.ndarray:
        """Return uint8[H,W,3], RGB, of the box cut to the image.

        Raises:
            UserInputError: if the file has become unreadable, or another, since it was checked; names it.
        """
        try:
            content = file_bytes(self.paths[row])
            # The bytes just read are hashed, not the file again:
            # nobody can change it between the check and the decoding.
            digest = content_digest(content, self._box(row)) if self.digests else ""
            refuse_changed(self.digests, row, digest, self.paths[row])
            image = decode(content, self.scaling)
            left, top, right, bottom = self.place(row, image.shape[1], image.shape[0])
        except Unusable as error:
            raise UserInputError(f"unusable image: {error}", where=self.paths[row]) from None
        return image[top:bottom, left:right]

    def read_many(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the images of several rows, in order."""
        for row in rows:
            yield self.read(row)

    def digest(self, row: int) -> str:
        """Return a hash of the file and the box; raise Unusable if it does not decode, or the box lies outside."""
        content = file_bytes(self.paths[row])
        image = with_pixels(content)
        self.place(row, *image.size)
        check_scale(image, self.scaling)
        return content_digest(content, self._box(row))

    def identity(self, row: int) -> str:
        """Return what a row shows of its file, as text; "" for all of it."""
        return self._box(row) + scaling_text(self.scaling)

    def _box(self, row: int) -> str:
        box = self.boxes[row]
        return "" if box is None else f"{box} {self.pad}"

    def place(self, row: int, width: int, height: int) -> Box:
        """Return the padded box of a row inside an image of this size.

        Raises:
            Unusable: if nothing of it lies inside.
        """
        box = self.boxes[row]
        if box is None:
            return 0, 0, width, height
        left, top, right, bottom = box
        across, down = int(self.pad * max(0, right - left)), int(self.pad * max(0, bottom - top))
        placed = max(0, left - across), max(0, top - down), min(width, right + across), min(height, bottom + down)
        if placed[2] - placed[0] < 1 or placed[3] - placed[1] < 1:
            raise Unusable(f"face box {left},{top},{right},{bottom} outside the {width}x{height} image")
        return placed
