"""A scene: the shapes of a batch of images, in drawing order, as the arrays that the rasteriser reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fercore.synthfer.rng import Array

FILL, STROKE, BLOB, ELLIPSE, SHADE = 0, 1, 2, 3, 4
PAINT, MULTIPLY, ADD = 0, 1, 2
LEFT_EYE, RIGHT_EYE, MOUTH, PERSON, SKIN = 1, 2, 3, 4, 5
"""Numbers of the clipping masks."""

Values = Array | Sequence[float] | float


@dataclass(frozen=True)
class Packed:
    """The arrays of N scenes of S shapes with Q points: meta i64[S,7], params f32[N,S,5], points f32[N,Q,3]."""

    meta: NDArray[np.int64]
    params: NDArray[np.float32]
    points: NDArray[np.float32]


class Scene:
    """Collects shapes for N images at once; every image has the same shapes, with values of its own.

    Colours are f64[N,3] or three numbers, alphas f64[N] or a number, lengths are pixels.
    A shape with alpha 0 costs nothing.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._meta: list[list[int]] = []
        self._params: list[NDArray[np.float32]] = []
        self._points: list[NDArray[np.float32]] = []
        self._size = 0

    def _add(
        self, kind: int, points: Array, width: Values, color: Values, alpha: Values, soft: Values,
        smooth: int = 0, clip: int = 0, store: int = 0, mode: int = PAINT,
    ) -> None:  # fmt: skip
        rows = points.shape[1]
        packed = np.empty((self.count, rows, 3), dtype=np.float32)
        packed[:, :, :2] = points
        packed[:, :, 2] = width
        params = np.empty((self.count, 5), dtype=np.float32)
        params[:, :3] = color
        params[:, 3] = alpha
        params[:, 4] = soft
        self._meta.append([kind, self._size, rows, smooth, clip, store, mode])
        self._points.append(packed)
        self._params.append(params)
        self._size += rows

    def fill(
        self, points: Array, color: Values, alpha: Values = 1.0, *, smooth: bool = True, clip: int = 0,
        store: int = 0, mode: int = PAINT,
    ) -> None:  # fmt: skip
        """Fill the closed curve through points f64[N,M,2]; a point given twice is a corner."""
        self._add(FILL, points, 0.0, color, alpha, 1.0, int(smooth), clip, store, mode)

    def stroke(
        self, points: Array, width: Values, color: Values, alpha: Values = 1.0, *, soft: Values = 1.0, clip: int = 0,
        mode: int = PAINT,
    ) -> None:  # fmt: skip
        """Draw the open curve through points f64[N,M,2] with half-widths f64[N,M] (or broadcastable)."""
        self._add(STROKE, points, width, color, alpha, soft, 2, clip, 0, mode)

    def ellipse(
        self, center: Array, axes: tuple[Values, Values], color: Values, alpha: Values = 1.0, *, angle: Values = 0.0,
        soft: Values = 1.0, clip: int = 0, store: int = 0, mode: int = PAINT,
    ) -> None:  # fmt: skip
        """Fill an ellipse at center f64[N,2] with semi-axes in pixels and an angle in radians."""
        self._add(ELLIPSE, *self._oval(center, axes, angle), color, alpha, soft, 0, clip, store, mode)

    def blob(
        self, center: Array, axes: tuple[Values, Values], color: Values, alpha: Values = 1.0, *, angle: Values = 0.0,
        clip: int = 0, mode: int = MULTIPLY,
    ) -> None:  # fmt: skip
        """Draw a Gaussian spot at center f64[N,2] with standard deviations in pixels: a shadow, a blush, a gleam."""
        self._add(BLOB, *self._oval(center, axes, angle), color, alpha, 1.0, 0, clip, 0, mode)

    def shade(
        self, center: Array, axes: tuple[Values, Values], angle: Array, light: Array, ambient: Array, directed: Array
    ) -> None:
        """Light everything in the PERSON mask as an ellipsoid; light f64[N,3] points towards the lamp."""
        points, width = self._oval(center, axes, angle)
        # Four rows of a shape that has no width or colour: `_shade` in raster.py reads them as light and strengths.
        points = np.concatenate([points, light[:, None, :2], np.stack([ambient, directed], axis=1)[:, None]], axis=1)
        width = np.concatenate([width, light[:, 2:], np.zeros((self.count, 1))], axis=1)
        self._add(SHADE, points, width, 0.0, 1.0, 1.0, 0, PERSON)

    def _oval(self, center: Array, axes: tuple[Values, Values], angle: Values) -> tuple[Array, Array]:
        points, width = np.zeros((self.count, 2, 2)), np.zeros((self.count, 2))
        points[:, 0] = center
        points[:, 1, 0], points[:, 1, 1] = axes
        width[:, 0] = angle
        return points, width

    def pack(self) -> Packed:
        """Return the arrays of the scene."""
        meta = np.asarray(self._meta, dtype=np.int64)
        return Packed(meta, np.stack(self._params, axis=1), np.concatenate(self._points, axis=1))
