"""Painters of the surroundings: background, light, spectacles and things in front of the face."""

from __future__ import annotations

import numpy as np

from fercore.synthfer import anatomy as a
from fercore.synthfer.painting.face import Face
from fercore.synthfer.painting.scene import ADD, Scene
from fercore.synthfer.rng import Array
from fercore.synthfer.styles import Style

CLUTTER = 7


def _color(face: Face, name: str, low: float, high: float) -> Array:
    channels = [face.draw.uniform(f"{name}/{k}", low, high) for k in range(3)]
    if face.spectrum != "visible":
        return np.stack([0.35 * channels[0]] * 3, axis=1)
    grey = sum(channels) / 3.0
    channels = [0.55 * grey + 0.45 * channel for channel in channels]
    return np.stack(channels, axis=1)


def paint_background(scene: Scene, face: Face, style: Style) -> None:
    """Paint a wall with a soft gradient, and where the style has clutter, shapes on it."""
    n, size, draw = len(face.unit), face.size, face.draw
    corners = np.asarray([(-1, -1), (size + 1, -1), (size + 1, size + 1), (-1, size + 1)], dtype=np.float64)
    scene.fill(np.broadcast_to(corners, (n, 4, 2)), face.tint.background, smooth=False)
    spot = np.stack([draw.uniform("spot x", 0.0, size), draw.uniform("spot y", 0.0, size)], axis=1)
    scene.blob(spot, (0.45 * size, 0.45 * size), 0.12, draw.uniform("spot", -1.0, 1.0) + 0.5, mode=ADD)
    for k in range(CLUTTER if style.clutter > 0 else 0):
        shown = draw.chance(f"clutter/{k}", style.clutter)
        x, y = draw.uniform(f"clutter/x{k}", -0.1, 1.1) * size, draw.uniform(f"clutter/y{k}", -0.1, 1.1) * size
        w, h = draw.uniform(f"clutter/w{k}", 0.05, 0.45) * size, draw.uniform(f"clutter/h{k}", 0.05, 0.6) * size
        color, tilt = _color(face, f"clutter/c{k}", 0.05, 0.95), draw.uniform(f"clutter/a{k}", -0.8, 0.8)
        if k % 3 == 2:
            scene.ellipse(np.stack([x, y], axis=1), (0.5 * w, 0.5 * h), color, shown, angle=tilt, soft=2.0)
            continue
        c, s = np.cos(tilt), np.sin(tilt)
        square = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
        box = [(x + c * dx * w - s * dy * h, y + s * dx * w + c * dy * h) for dx, dy in square]
        scene.fill(np.stack([np.stack(point, axis=1) for point in box], axis=1), color, shown, smooth=False)


def paint_light(scene: Scene, face: Face, style: Style) -> None:
    """Light the person from one lamp."""
    draw, u = face.draw, face.unit
    around = draw.uniform("light around", -0.15 * np.pi, 1.15 * np.pi)
    tilt = draw.uniform("light tilt", *style.side_light) * 1.25
    light = np.stack([np.cos(around) * np.sin(tilt), -np.sin(around) * np.sin(tilt), np.cos(tilt)], axis=1)
    directed = draw.uniform("directed", *style.diffuse)
    # A lamp from the side lights less of the face: it is made stronger, up to a limit.
    strength = directed / np.maximum(np.cos(0.7 * tilt), 0.4)
    scene.shade(face.between(27, 33), (1.30 * u, 1.75 * u), face.pose.roll, light, 1.0 - directed, strength)


def paint_glasses(scene: Scene, face: Face) -> None:
    """Paint spectacles on those who wear them; `tint.lens` says how opaque they are."""
    u, tint, worn = face.unit, face.tint, face.who.glasses
    wide, tall = 0.30 * u, (0.20 + 0.04 * np.clip(face.draw.uniform("lens"), 0, 1)) * u
    centers = [face.near(k, 0.0, 0.03) for k in (a.IRIS_LEFT, a.IRIS_RIGHT)]
    for center in centers:
        scene.ellipse(center, (wide, tall), tint.glass, worn * tint.lens, angle=face.pose.roll)
        ring = [(np.cos(t), np.sin(t)) for t in np.linspace(0.0, 2.0 * np.pi, 11)]
        c, s = np.cos(face.pose.roll), np.sin(face.pose.roll)
        path = [center + np.stack([c * x * wide - s * y * tall, s * x * wide + c * y * tall], axis=1) for x, y in ring]
        scene.stroke(np.stack(path, axis=1), 0.018 * u[:, None], tint.frame, worn)
    middle = face.near(27, 0.0, 0.0)
    bridge = np.stack([0.3 * centers[0] + 0.7 * middle, middle, 0.3 * centers[1] + 0.7 * middle], axis=1)
    scene.stroke(bridge, 0.018 * u[:, None], tint.frame, worn)


def paint_occluder(scene: Scene, face: Face, style: Style) -> None:
    """Paint what hides a part of the face: a hand, a cup, a scarf, a bar, sunglasses or a cap's brim."""
    if style.occlusion == 0.0:
        return
    draw, u, size = face.draw, face.unit, face.size
    shown = draw.chance("occluded", style.occlusion)
    kind = draw.choice("occluder", (3, 2, 1, 2, 1, 2))
    color = _color(face, "occluder", 0.05, 0.9)
    side = np.where(draw.uniform("occluder side") < 0.5, -1.0, 1.0)
    palm = face.near(a.CHIN, side * draw.uniform("hand x", 0.55, 0.9), draw.uniform("hand y", -0.3, 0.2))
    hand = shown * (kind == 0)
    scene.ellipse(palm, (0.34 * u, 0.44 * u), 0.9 * face.tint.skin, hand, angle=0.3 * side)
    for k in range(4):
        base = palm + np.stack([(-0.24 + 0.16 * k) * u, -0.30 * u], axis=1)
        tip = base + np.stack([-0.12 * side * u, (-0.42 + 0.05 * abs(k - 1)) * u], axis=1)
        scene.stroke(np.stack([base, tip], axis=1), 0.07 * u[:, None], (0.88 + 0.02 * k) * face.tint.skin, hand)
    cup = face.near(a.CHIN, 0.3 * side, draw.uniform("cup", -0.05, 0.25))
    scene.ellipse(cup, (0.38 * u, 0.42 * u), color, shown * (kind == 1), soft=1.5)
    scarf = face.path(a.CHIN, [(-1.3, -0.05), (0.0, 0.05), (1.3, -0.05), (1.5, 1.2), (-1.5, 1.2)])
    scene.fill(scarf, color, shown * (kind == 2), smooth=False)
    bar = draw.uniform("bar", -0.05, 0.22) * size
    edge = np.where(side > 0, size - bar, bar)
    far = np.where(side > 0, 2.0 * size, -1.0 * size)
    rows = [(edge, -1.0), (far, -1.0), (far, size + 1.0), (edge, size + 1.0)]
    box = np.stack([np.stack([x, np.full_like(x, y)], axis=1) for x, y in rows], axis=1)
    scene.fill(box, color, shown * (kind == 3), smooth=False)
    for iris in (a.IRIS_LEFT, a.IRIS_RIGHT):
        scene.ellipse(face.near(iris, 0.0, 0.03), (0.32 * u, 0.23 * u), 0.08, shown * (kind == 4))
    brim = face.path(a.FOREHEAD, [(-1.1, 0.22), (0.0, -0.02), (1.1, 0.22), (1.15, -1.3), (-1.15, -1.3)])
    scene.fill(brim, color, shown * (kind == 5), smooth=False)
