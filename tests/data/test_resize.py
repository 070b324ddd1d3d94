"""One resizer for arrays and for images as Pillow decodes them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fercore.data.images.resize import fitted


@pytest.mark.parametrize("resize", ["stretch", "crop"])
@pytest.mark.parametrize("shape", [(50, 81), (81, 50), (16, 16), (3, 200)])
def test_an_array_and_an_image_become_the_same_square(resize, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    square = fitted(pixels, 16, resize)
    assert square.shape == (3, 16, 16)
    assert np.array_equal(fitted(Image.fromarray(pixels), 16, resize), square)
