"""From face coordinates to pixels: depth of the points, head rotation, crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fercore.synthfer import anatomy
from fercore.synthfer.rng import Array, Draw
from fercore.synthfer.styles import Style


@dataclass(frozen=True)
class Pose:
    """Head angles in radians, half the image's width in face half-widths, and the face's place; all f64[N]."""

    yaw: Array
    pitch: Array
    roll: Array
    zoom: Array
    x: Array
    y: Array


def draw_pose(draw: Draw, style: Style) -> Pose:
    """Draw head poses and crops of a style."""

    def angle(name: str, deviation: float) -> Array:
        return np.radians(np.clip(draw.normal(name, deviation), -2.0 * deviation, 2.0 * deviation))

    return Pose(
        yaw=angle("yaw", style.yaw),
        pitch=angle("pitch", style.pitch),
        roll=angle("roll", style.roll),
        zoom=draw.uniform("zoom", *style.zoom),
        x=draw.normal("crop x", style.shift),
        y=draw.normal("crop y", style.shift) - 0.12,
    )


def _depth() -> Array:
    """Return the height of the average points above the plane of the ears, f64[P]."""
    x, y = anatomy.AVERAGE[:, 0], anatomy.AVERAGE[:, 1]
    z = 0.85 * np.sqrt(np.maximum(1.0 - (x / 1.06) ** 2 - ((y - 0.1) / 1.75) ** 2, 0.0))
    # Above the head's ellipsoid: the nose, in front of all; eyes lie deeper.
    z[27:36] += (0.05, 0.14, 0.24, 0.32, 0.08, 0.13, 0.16, 0.13, 0.08)
    z[36:48] -= 0.06
    z[[anatomy.IRIS_LEFT, anatomy.IRIS_RIGHT]] -= 0.08
    z[0:17] *= 0.7
    z[anatomy.SKULL] *= 0.6
    z[[anatomy.EAR_LEFT, anatomy.EAR_RIGHT]] = -0.15
    z[anatomy.NECK] = -0.45
    return z


_DEPTH = _depth()


def turn(x: Array, y: Array, z: Array, pose: Pose) -> tuple[Array, Array]:
    """Rotate points f64[N,...] by the pose and return their x and y."""

    def tall(value: Array) -> Array:
        return value.reshape(-1, *([1] * (x.ndim - 1)))

    sin, cos = np.sin, np.cos
    x, z = x * cos(tall(pose.yaw)) + z * sin(tall(pose.yaw)), z * cos(tall(pose.yaw)) - x * sin(tall(pose.yaw))
    y = y * cos(tall(pose.pitch)) - z * sin(tall(pose.pitch))
    return x * cos(tall(pose.roll)) - y * sin(tall(pose.roll)), x * sin(tall(pose.roll)) + y * cos(tall(pose.roll))


def project(points: Array, pose: Pose, size: int) -> Array:
    """Return face points f64[N,P,2] as pixels f64[N,P,2] of a square image."""
    x, y = turn(points[:, :, 0], points[:, :, 1], np.broadcast_to(_DEPTH, points.shape[:2]), pose)
    scale = unit(pose, size)[:, None]
    return np.stack([size / 2 + (x + pose.x[:, None]) * scale, size / 2 + (y + pose.y[:, None]) * scale], axis=2)


def unit(pose: Pose, size: int) -> Array:
    """Return the pixels of one face half-width, f64[N]."""
    return 0.5 * size / pose.zoom
