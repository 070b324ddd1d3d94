"""Faces cut out of larger images: one row a box, several rows may share a file."""

from __future__ import annotations

from dataclasses import dataclass

from fercore.data.images.codecs import Unusable
from fercore.data.images.readers import Box, ImageFiles

__all__ = ["Box", "CropReader"]


@dataclass(frozen=True, eq=False)
class CropReader(ImageFiles):
    """Boxes of image files.

    Args:
        boxes: box of each row, or None for the whole image.
        pad: share of the box's width and height that is added on every side.
        scaling: goes by the whole file.
    """

    boxes: tuple[Box | None, ...]
    pad: float = 0.0

    def part(self, row: int) -> str:
        """Return a row's box as text; "" for the whole image."""
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
