"""Making an image a square of a given side."""

from __future__ import annotations

import numpy as np


def fitted(image: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Return an image uint8[H,W,3] as uint8[3,size,size]: squeezed ("stretch"), or its middle square ("crop")."""
    from PIL import Image

    height, width = image.shape[:2]
    if resize == "crop" and height != width:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    if image.shape[:2] != (size, size):
        # Pillow's bilinear filter widens with the reduction; torch's
        # interpolate aliases unless asked, and needs floats.
        pil = Image.fromarray(np.ascontiguousarray(image))
        image = np.asarray(pil.resize((size, size), Image.Resampling.BILINEAR))
    return image.transpose(2, 0, 1)
