"""What the painters share: the points, actions and colours of a batch of faces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fercore.synthfer.identity import Identity
from fercore.synthfer.names import AU_INDEX
from fercore.synthfer.painting.palette import Palette
from fercore.synthfer.pose import Pose
from fercore.synthfer.rng import Array, Draw

LEFT, RIGHT = 0, 1


@dataclass(frozen=True)
class Face:
    """N faces ready to be painted.

    Args:
        points: f64[N,P,2] pixels.
        unit: f64[N] pixels of one face half-width.
        action: f64[N,17,2] activity in [0,1] of the units on the image-left and image-right half.
        spectrum: "visible", "nir" or "thermal".
    """

    points: Array
    unit: Array
    action: Array
    who: Identity
    pose: Pose
    tint: Palette
    draw: Draw
    size: int
    spectrum: str

    @cached_property
    def _axes(self) -> tuple[Array, Array, Array, Array]:
        """Return x and y, each f64[N] pixels, of one half-width to the face's right, then of one downwards."""
        # A turned head is foreshortened: lengths shrink with the cosine.
        across, down = self.unit * np.cos(self.pose.yaw), self.unit * np.cos(self.pose.pitch)
        c, s = np.cos(self.pose.roll), np.sin(self.pose.roll)
        return c * across, s * across, -s * down, c * down

    def au(self, name: str, side: int | None = None) -> Array:
        """Return a unit's activity f64[N] in [0,1] on one half, or the mean of both."""
        both = self.action[:, AU_INDEX[name]]
        return both.mean(axis=1) if side is None else both[:, side]

    def near(self, index: int, dx: Array | float, dy: Array | float) -> Array:
        """Return the pixels f64[N,2] of a place (dx, dy) face half-widths from a point, turned with the head."""
        xx, xy, yx, yy = self._axes
        place = self.points[:, index].copy()
        place[:, 0] += xx * dx + yx * dy
        place[:, 1] += xy * dx + yy * dy
        return place

    def path(self, index: int, steps: list[tuple[Array | float, Array | float]]) -> Array:
        """Return the pixels f64[N,M,2] of several places around a point."""
        return np.stack([self.near(index, dx, dy) for dx, dy in steps], axis=1)

    def between(self, a: int, b: int, share: Array | float = 0.5) -> Array:
        """Return the pixels f64[N,2] a share of the way from one point to another."""
        share = np.asarray(share).reshape(-1, 1)
        return self.points[:, a] * (1.0 - share) + self.points[:, b] * share

    def dark(self, amount: float) -> Array:
        """Return a multiplying colour f64[N,3] for skin shadows; skin reddens where it darkens."""
        if self.spectrum != "visible":
            return np.full((len(self.unit), 3), 1.0 - amount)
        return np.broadcast_to(1.0 - amount * np.asarray([0.80, 1.0, 1.08]), (len(self.unit), 3))


def side_sign(side: int) -> float:
    """Return -1 for the image-left half and 1 for the image-right one."""
    return -1.0 if side == LEFT else 1.0
