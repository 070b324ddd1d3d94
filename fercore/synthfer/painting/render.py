"""From drawn parameters to pixels: assembles a batch's faces, paints them and photographs them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fercore.synthfer.anatomy import move_face, shape_face
from fercore.synthfer.emotions import Expression
from fercore.synthfer.identity import draw_identity
from fercore.synthfer.names import AU_INDEX, MAX_INTENSITY
from fercore.synthfer.painting import paint_features, paint_head, paint_world
from fercore.synthfer.painting.face import Face
from fercore.synthfer.painting.palette import SPECTRA
from fercore.synthfer.painting.scene import Scene
from fercore.synthfer.pose import draw_pose, project, unit
from fercore.synthfer.rng import Array, Draw
from fercore.synthfer.styles import TABLE

_REST = (("AU04", 0), ("AU01", 1), ("AU15", 2), ("AU12", 3))


def build_face(style: str, subject: Draw, image: Draw, expression: Expression, size: int) -> Face:
    """Return the posed, moved and coloured faces of N images.

    Args:
        style: name of the domain.
        subject: streams keyed by subject, [N].
        image: streams keyed by image, [N].
        expression: what the N faces do.
        size: height and width of the images.
    """
    traits = TABLE[style]
    who = draw_identity(subject, traits)
    pose = draw_pose(image, traits)
    # A resting face has lines of its own: they move points, but show no activity and no score.
    resting = expression.intensity.copy()
    for name, column in _REST:
        resting[:, AU_INDEX[name]] += MAX_INTENSITY * who.rest[:, column]
    points = move_face(shape_face(who.shape), resting, expression.balance)
    action = np.clip(expression.intensity[:, :, None] * expression.balance[:, None] / MAX_INTENSITY, 0.0, 1.1)
    tint = SPECTRA[traits.spectrum](who, subject, image)
    return Face(project(points, pose, size), unit(pose, size), action, who, pose, tint, image, size, traits.spectrum)


def paint(face: Face, style: str) -> Scene:
    """Return the scene of N faces, background to foreground."""
    traits, scene = TABLE[style], Scene(len(face.unit))
    paint_world.paint_background(scene, face, traits)
    paint_head.paint_back(scene, face)
    paint_head.paint_skin(scene, face)
    paint_features.paint_folds(scene, face)
    paint_features.paint_eyes(scene, face)
    paint_features.paint_brows(scene, face)
    paint_features.paint_nose(scene, face)
    paint_features.paint_mouth(scene, face)
    paint_head.paint_hair(scene, face)
    paint_world.paint_light(scene, face, traits)
    paint_world.paint_glasses(scene, face)
    paint_world.paint_occluder(scene, face, traits)
    return scene


def camera_settings(image: Draw, style: str, size: int) -> NDArray[np.float32]:
    """Draw camera settings f32[N,12]; columns as in camera.FIELDS."""
    traits = TABLE[style]
    warm, tint = image.uniform("warm", -1.0, 1.0) * traits.cast, image.uniform("tint", -0.4, 0.4) * traits.cast
    flat = np.ones_like(warm)

    def span(name: str, low_high: tuple[float, float]) -> Array:
        return image.uniform(name, *low_high)

    columns = [
        size * span("blur", traits.blur), span("gain", traits.gain), span("gamma", traits.gamma),
        span("contrast", traits.contrast), 1.0 + warm, 1.0 + tint, 1.0 - warm, span("noise", traits.noise),
        span("shot", traits.shot), span("vignette", traits.vignette), 4.0 * span("jpeg", traits.jpeg),
        flat if traits.grey else 0.0 * flat,
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def photograph(face: Face, style: str) -> NDArray[np.uint8]:
    """Return the images u8[N,H,W,3] of N faces."""
    # Importing compiled drawing code takes long, and datasets are described without it.
    from fercore.synthfer.painting.camera import shoot
    from fercore.synthfer.painting.raster import draw

    packed = paint(face, style).pack()
    settings, keys = camera_settings(face.draw, style, face.size), face.draw.bits("grain")
    images = np.empty((len(face.unit), face.size, face.size, 3), dtype=np.uint8)
    canvas = np.empty((face.size, face.size, 3), dtype=np.float32)
    for i in range(len(images)):
        canvas[:] = 0.0
        draw(canvas, packed.meta, packed.params[i], packed.points[i])
        shoot(canvas, settings[i], keys[i], images[i])
    return images
