"""Compiled camera: blur, tone, noise and compression of one rendered canvas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

FIELDS = (
    "blur", "gain", "gamma", "contrast", "red", "green", "blue", "noise", "shot", "vignette", "jpeg", "grey",
)  # fmt: skip
"""Columns of the camera settings of one image; blur in pixels, jpeg as a quantisation step of full white."""


@njit(cache=True, nogil=True)
def _noise(key: Any, index: int) -> float:
    """Return a bell-shaped value of variance 1 from a key and a counter."""
    x = key + np.uint64(index) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    total = 0.0
    for shift in (0, 16, 32, 48):
        total += float((x >> np.uint64(shift)) & np.uint64(0xFFFF)) / 65535.0
    # Four uniforms have mean 2 and variance 1/3.
    return (total - 2.0) * 1.7320508


@njit(cache=True, nogil=True)
def _blur(canvas: Any, sigma: float) -> None:
    """Blur canvas[H,W,3] in place with a Gaussian of that many pixels."""
    if sigma < 0.2:
        return
    height, width, _ = canvas.shape
    radius = min(math.ceil(2.5 * sigma), 8)
    weights = np.zeros(2 * radius + 1, dtype=np.float32)
    for i in range(2 * radius + 1):
        weights[i] = math.exp(-0.5 * ((i - radius) / sigma) ** 2)
    weights /= weights.sum()
    half = np.zeros_like(canvas)
    for y in range(height):
        for x in range(width):
            for i in range(2 * radius + 1):
                at = min(max(x + i - radius, 0), width - 1)
                for k in range(3):
                    half[y, x, k] += weights[i] * canvas[y, at, k]
    canvas[:] = 0.0
    for y in range(height):
        for i in range(2 * radius + 1):
            at = min(max(y + i - radius, 0), height - 1)
            for x in range(width):
                for k in range(3):
                    canvas[y, x, k] += weights[i] * half[at, x, k]


@njit(cache=True, nogil=True)
def _expose(canvas: Any, s: Any, key: Any) -> None:
    """Apply vignette, gain, contrast, gamma, colour cast and sensor noise to canvas[H,W,3] in place."""
    height, width, _ = canvas.shape
    gain, gamma, contrast, noise, shot, vignette = s[1], s[2], s[3], s[7], s[8], s[9]
    grey = s[11] > 0.5
    for y in range(height):
        for x in range(width):
            r2 = ((x + 0.5) / width - 0.5) ** 2 + ((y + 0.5) / height - 0.5) ** 2
            fall = gain * (1.0 - vignette * 2.0 * r2)
            if grey:
                mean = 0.299 * canvas[y, x, 0] + 0.587 * canvas[y, x, 1] + 0.114 * canvas[y, x, 2]
                canvas[y, x, 0], canvas[y, x, 1], canvas[y, x, 2] = mean, mean, mean
            for k in range(1 if grey else 3):
                value = max(canvas[y, x, k] * fall * s[4 + k], 0.0)
                # About middle grey at this exposure, so that contrast does not change brightness.
                value = 0.5 * gain + (value - 0.5 * gain) * contrast
                value = max(value, 0.0) ** gamma
                # Photon noise grows with the root of the light.
                grain = noise + shot * math.sqrt(min(value, 1.0))
                canvas[y, x, k] = value + grain * _noise(key, (y * width + x) * 3 + k)
            if grey:
                canvas[y, x, 1], canvas[y, x, 2] = canvas[y, x, 0], canvas[y, x, 0]


@njit(cache=True, nogil=True)
def _basis() -> Any:
    """Return the orthonormal cosine basis, f32[8,8] (frequency, position)."""
    basis = np.zeros((8, 8), dtype=np.float32)
    for u in range(8):
        scale = math.sqrt(0.125) if u == 0 else 0.5
        for x in range(8):
            basis[u, x] = scale * math.cos((2 * x + 1) * u * math.pi / 16.0)
    return basis


@njit(cache=True, nogil=True)
def _compress(canvas: Any, step: float, channels: int) -> None:
    """Round the 8x8 cosine coefficients of canvas[H,W,3] as block compression does, in place."""
    height, width, _ = canvas.shape
    basis = _basis()
    block, half = np.zeros((8, 8), dtype=np.float32), np.zeros((8, 8), dtype=np.float32)
    for k in range(channels):
        for top in range(0, height - 7, 8):
            for left in range(0, width - 7, 8):
                _rotate(basis, canvas[top : top + 8, left : left + 8, k], half, block, False)
                for u in range(8):
                    for v in range(8):
                        # Coarser for higher frequencies, as tables of JPEG are.
                        width_uv = step * (1.0 + 0.6 * (u + v))
                        block[u, v] = np.rint(block[u, v] / width_uv) * width_uv
                _rotate(basis, block, half, canvas[top : top + 8, left : left + 8, k], True)


@njit(cache=True, nogil=True)
def _rotate(basis: Any, source: Any, half: Any, target: Any, back: bool) -> None:
    """Write basis @ source @ basis.T (or the way back) to target, all f32[8,8]."""
    for u in range(8):
        for x in range(8):
            total = np.float32(0.0)
            for y in range(8):
                total += (basis[y, u] if back else basis[u, y]) * source[y, x]
            half[u, x] = total
    for u in range(8):
        for v in range(8):
            total = np.float32(0.0)
            for x in range(8):
                total += (basis[x, v] if back else basis[v, x]) * half[u, x]
            target[u, v] = total


@njit(cache=True, nogil=True)
def shoot(canvas: Any, settings: Any, key: Any, image: Any) -> None:
    """Turn a canvas into a photograph.

    Args:
        canvas: f32[H,W,3] in [0,1], changed in place.
        settings: f32[12], see FIELDS.
        key: u64, the noise of this image.
        image: u8[H,W,3], written.
    """
    height, width, _ = canvas.shape
    _blur(canvas, settings[0])
    _expose(canvas, settings, key)
    grey = settings[11] > 0.5
    if settings[10] > 0.0:
        _compress(canvas, settings[10], 1 if grey else 3)
    for y in range(height):
        for x in range(width):
            for k in range(3):
                value = canvas[y, x, 0 if grey else k]
                image[y, x, k] = np.uint8(min(max(value, 0.0), 1.0) * 255.0 + 0.5)
