"""Making an image a square of a given side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


def fitted(image: np.ndarray | Image, size: int, resize: str) -> np.ndarray:
    """Return an image as uint8[3,size,size]: squeezed ("stretch"), or its middle square ("crop").

    Args:
        image: uint8[H,W,3], or a PIL image in RGB. Both give the same pixels, and a PIL image is not copied as a
            whole, which for a large photograph takes longer than decoding it.
    """
    from PIL import Image

    width, height = image.shape[1::-1] if isinstance(image, np.ndarray) else image.size
    if resize == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        if isinstance(image, np.ndarray):
            image = image[top : top + side, left : left + side]
        else:
            image = image.crop((left, top, left + side, top + side))
        height = width = side
    if (height, width) != (size, size):
        # Pillow's bilinear filter widens with the reduction; torch's
        # interpolate aliases unless asked, and needs floats.
        pil = Image.fromarray(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image
        image = pil.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)
