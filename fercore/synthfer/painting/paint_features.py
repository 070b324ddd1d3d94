"""Painters of what moves: eyes, brows, nose, mouth and the folds that action units raise."""

from __future__ import annotations

import numpy as np

from fercore.synthfer import anatomy as a
from fercore.synthfer.painting.face import LEFT, RIGHT, Face, side_sign
from fercore.synthfer.painting.scene import ADD, LEFT_EYE, MOUTH, MULTIPLY, RIGHT_EYE, SKIN, Scene
from fercore.synthfer.rng import Array

_EYES = {LEFT: ((36, 37, 38, 39), (39, 40, 41, 36), a.IRIS_LEFT, LEFT_EYE),
         RIGHT: ((45, 44, 43, 42), (42, 47, 46, 45), a.IRIS_RIGHT, RIGHT_EYE)}  # fmt: skip


def paint_eyes(scene: Scene, face: Face) -> None:
    """Paint both eyes: white, iris, pupil, gleam, lids, lashes and the crease above."""
    p, u, tint = face.points, face.unit, face.tint
    gaze_x, gaze_y = face.draw.normal("gaze x", 0.025) * u, face.draw.normal("gaze y", 0.012) * u
    radius = 0.093 * u * (1.0 + 0.03 * face.who.shape["eye_size"])
    for side, (upper, lower, center, mask) in _EYES.items():
        outline = np.concatenate([p[:, [upper[0]]], p[:, upper], p[:, lower]], axis=1)
        scene.fill(outline, tint.sclera, store=mask)
        iris = p[:, center] + np.stack([gaze_x, gaze_y], axis=1)
        scene.ellipse(iris, (radius, radius), 0.55 * tint.iris, clip=mask, soft=1.2)
        scene.ellipse(iris, (0.8 * radius, 0.8 * radius), tint.iris, clip=mask, soft=1.2)
        scene.ellipse(iris, (0.42 * radius, 0.42 * radius), tint.pupil, clip=mask)
        if face.spectrum != "thermal":
            gleam = iris + 0.35 * radius[:, None] * np.asarray([-1.0, -1.0])
            scene.ellipse(gleam, (0.22 * radius, 0.22 * radius), 1.0, 0.9, clip=mask)
        scene.stroke(p[:, upper], 0.035 * u[:, None], 0.55, tint.fold * 1.5, soft=0.05 * u, clip=mask, mode=MULTIPLY)
        lash = u[:, None] * np.asarray([0.012, 0.026, 0.024, 0.012])
        scene.stroke(p[:, upper], lash, tint.line, 0.95)
        scene.stroke(p[:, lower], 0.010 * u[:, None], tint.line, 0.45)
        _lid_creases(scene, face, side, upper, lower)


def _lid_creases(scene: Scene, face: Face, side: int, upper: tuple[int, ...], lower: tuple[int, ...]) -> None:
    """Draw the crease over the upper lid and the bag under the lower one, deeper with AU05, AU06 and AU07."""
    u, fold, sign = face.unit, face.tint.fold, side_sign(side)
    lift = 0.055 - 0.03 * face.au("AU05", side) + 0.02 * face.au("AU45", side)
    hood = np.stack([face.near(upper[0], 0.03 * sign, -0.02), *[face.near(k, 0.0, -lift) for k in upper[1:3]],
                     face.near(upper[3], 0.0, -0.035)], axis=1)  # fmt: skip
    scene.stroke(hood, 0.012 * u[:, None], face.dark(0.6), fold, clip=SKIN, mode=MULTIPLY)
    squeeze = np.maximum(face.au("AU06", side), 0.8 * face.au("AU07", side))
    bag = np.stack([face.near(k, 0.0, d) for k, d in zip(lower, (0.03, 0.065, 0.065, 0.03), strict=True)], axis=1)
    depth = np.clip(0.25 + 0.3 * face.who.age + 1.3 * squeeze, 0.0, 1.5)
    scene.stroke(bag, 0.015 * u[:, None], face.dark(0.6), fold * depth, soft=0.06 * u, clip=SKIN, mode=MULTIPLY)


def paint_brows(scene: Scene, face: Face) -> None:
    """Paint both brows as tapered strokes."""
    thick = face.unit * (0.050 + 0.010 * face.draw.normal("brow thickness"))
    profile = np.asarray([0.35, 0.8, 1.0, 1.1, 0.95])
    shade = np.clip(0.85 + 0.08 * face.draw.normal("brow density"), 0.55, 1.0)
    for points in (face.points[:, 17:22], face.points[:, 22:27][:, ::-1]):
        scene.stroke(points, thick[:, None] * profile, face.tint.brow, shade, soft=np.maximum(0.035 * face.unit, 0.8))


def paint_nose(scene: Scene, face: Face) -> None:
    """Paint the nose: sides, wings, nostrils and the wrinkles of AU09."""
    p, u, fold = face.points, face.unit, face.tint.fold
    for side, wing, nostril in ((LEFT, 31, 32), (RIGHT, 35, 34)):
        sign = side_sign(side)
        bridge = np.stack([face.near(27, 0.07 * sign, 0.0), face.near(29, 0.085 * sign, 0.0), p[:, wing]], axis=1)
        scene.stroke(bridge, 0.02 * u[:, None], face.dark(0.4), fold * 0.8, soft=0.09 * u, clip=SKIN, mode=MULTIPLY)
        curl = np.stack([face.near(wing, -0.01 * sign, -0.09), face.near(wing, 0.03 * sign, -0.03),
                         face.near(wing, 0.0, 0.03), p[:, nostril]], axis=1)  # fmt: skip
        depth = fold * (1.2 + 0.8 * face.au("AU09", side) + 0.5 * face.au("AU10", side))
        scene.stroke(curl, 0.012 * u[:, None], face.dark(0.65), depth, soft=1.2, clip=SKIN, mode=MULTIPLY)
        hole = face.near(nostril, 0.01 * sign, -0.015)
        scene.ellipse(hole, (0.052 * u, 0.026 * u), face.dark(0.8), 1.5 * fold, angle=0.25 * sign, mode=MULTIPLY)
        for k in range(3):
            crease = face.path(28, [(0.02 * sign, -0.10 + 0.07 * k), (0.09 * sign, -0.07 + 0.07 * k),
                                    (0.15 * sign, 0.0 + 0.07 * k)])  # fmt: skip
            strength = fold * np.clip(2.2 * face.au("AU09", side), 0.0, 1.8)
            scene.stroke(crease, 0.012 * u[:, None], face.dark(0.65), strength, clip=SKIN, mode=MULTIPLY)


def paint_mouth(scene: Scene, face: Face) -> None:
    """Paint the lips, and between them cavity, teeth and tongue."""
    p, u, tint = face.points, face.unit, face.tint
    inner_top, inner_bottom = [60, 61, 62, 63, 64], [64, 65, 66, 67, 60]
    upper = np.concatenate([p[:, 48:49], p[:, 48:55], p[:, 54:55], p[:, inner_top][:, ::-1]], axis=1)
    lower = np.concatenate([p[:, 54:55], p[:, 54:60], p[:, [48, 48]], p[:, inner_bottom][:, ::-1]], axis=1)
    scene.fill(upper, 0.88 * tint.lip)
    scene.fill(lower, tint.lip)
    shine = 0.5 * (p[:, 57] + p[:, 66])
    scene.blob(shine, (0.11 * u, 0.022 * u), 0.10, tint.fold * 2.0, mode=ADD)
    inside = np.concatenate([p[:, [60]], p[:, inner_top], p[:, inner_bottom]], axis=1)
    gap = np.abs(p[:, 66, 1] - p[:, 62, 1]) / u
    loaded = np.clip((gap - 0.015) / 0.03, 0.0, 1.0)
    scene.fill(inside, tint.cavity, loaded, store=MOUTH)
    scene.ellipse(face.near(66, 0.0, 0.02), (0.19 * u, 0.10 * u), tint.tongue, clip=MOUTH, soft=2.0)
    _teeth(scene, face)
    seam = np.concatenate([p[:, [48]], 0.5 * (p[:, [61, 62, 63]] + p[:, [67, 66, 65]]), p[:, [54]]], axis=1)
    taper = np.asarray([0.012, 0.016, 0.014, 0.016, 0.012])
    scene.stroke(seam, u[:, None] * taper, face.dark(0.8), 0.9 * (1.0 - loaded), mode=MULTIPLY)
    for corner, sign in ((48, -1.0), (54, 1.0)):
        scene.blob(face.near(corner, 0.02 * sign, 0.0), (0.035 * u, 0.035 * u), face.dark(0.6), 1.4 * tint.fold)


def _teeth(scene: Scene, face: Face) -> None:
    """Paint the upper row, fixed to the skull, and the tip of the lower one, fixed to the jaw."""
    u, tint = face.unit, face.tint
    top = face.path(a.UPPER_TEETH, [(-0.34, -0.3), (0.34, -0.3), (0.30, -0.02), (0.15, 0.005), (0.0, 0.01),
                                    (-0.15, 0.005), (-0.30, -0.02)])  # fmt: skip
    low = face.path(a.LOWER_TEETH, [(-0.26, 0.2), (-0.24, 0.045), (0.0, 0.035), (0.24, 0.045), (0.26, 0.2)])
    scene.fill(low, 0.85 * tint.teeth, smooth=False, clip=MOUTH)
    scene.fill(top, tint.teeth, smooth=False, clip=MOUTH)
    for x in (-0.21, -0.13, -0.045, 0.045, 0.13, 0.21):
        gap = face.path(a.UPPER_TEETH, [(x, -0.2), (x, 0.0)])
        scene.stroke(gap, 0.004 * u[:, None], 0.75, 0.35, clip=MOUTH, mode=MULTIPLY)


def paint_folds(scene: Scene, face: Face) -> None:
    """Draw forehead lines, frown lines, crow's feet, cheek folds, dimples and the chin's pebbling."""
    _forehead(scene, face)
    for side in (LEFT, RIGHT):
        _cheek(scene, face, side)
        _corner(scene, face, side)
    chin = np.clip(1.6 * face.au("AU17"), 0.0, 1.4)
    arc = face.path(a.CHIN, [(-0.17, 0.0), (-0.09, -0.075), (0.09, -0.075), (0.17, 0.0)])
    _crease(scene, face, arc, chin, 0.016)
    for x, y in ((-0.07, 0.0), (0.06, 0.01), (0.0, 0.06)):
        axes = (0.03 * face.unit, 0.025 * face.unit)
        scene.blob(face.near(a.CHIN, x, y), axes, face.dark(0.5), chin * face.tint.fold)


def _crease(scene: Scene, face: Face, points: Array, depth: Array, width: float = 0.014) -> None:
    """Draw one fold: a soft dark line that fades out at both ends; depth f64[N]."""
    profile = np.sin(np.linspace(0.35, np.pi - 0.35, points.shape[1]))
    soft = np.maximum(0.035 * face.unit, 0.9)
    wide = face.unit[:, None] * width * profile
    scene.stroke(points, wide, face.dark(0.75), face.tint.fold * depth, soft=soft, clip=SKIN, mode=MULTIPLY)


def _forehead(scene: Scene, face: Face) -> None:
    age = 0.25 * face.who.age
    for k, y in enumerate((0.10, 0.0, -0.10)):
        inner = face.au("AU01")
        middle = face.path(a.FOREHEAD, [(-0.26, y), (0.0, y - 0.035 * inner), (0.26, y)])
        _crease(scene, face, middle, age + 1.3 * inner)
        for side, temple in ((LEFT, a.TEMPLE_LEFT), (RIGHT, a.TEMPLE_RIGHT)):
            outer, sign = face.au("AU02", side), side_sign(side)
            arc = face.path(temple, [(-0.24 * sign, y - 0.02), (0.0, y - 0.06), (0.20 * sign, y + 0.03 + 0.01 * k)])
            _crease(scene, face, arc, 0.6 * age + 1.3 * outer)
    for side in (LEFT, RIGHT):
        sign, frown = side_sign(side), face.au("AU04", side)
        line = face.path(a.GLABELLA, [(0.065 * sign, -0.17), (0.055 * sign, -0.06), (0.075 * sign, 0.06)])
        _crease(scene, face, line, 0.6 * age + 1.8 * frown, 0.018)
    scene.blob(face.points[:, a.GLABELLA], (0.13 * face.unit, 0.10 * face.unit), face.dark(0.4), 0.9 * face.au("AU04"))


def _cheek(scene: Scene, face: Face, side: int) -> None:
    """Draw the cheek fold (AU12, AU10, AU09), the raised cheek and crow's feet (AU06)."""
    sign, u = side_sign(side), face.unit
    points = face.points[:, a.FOLD_LEFT if side == LEFT else a.FOLD_RIGHT]
    pull = 1.1 * face.au("AU12", side) + 0.9 * face.au("AU10", side) + 0.7 * face.au("AU09", side)
    pull = pull + 0.5 * face.au("AU15", side) + 0.5 * face.au("AU20", side)
    _crease(scene, face, points, np.clip(0.2 + 0.5 * face.who.age + 1.2 * pull, 0.0, 1.7), 0.022)
    raised = face.au("AU06", side)
    cheek = a.CHEEK_LEFT if side == LEFT else a.CHEEK_RIGHT
    scene.blob(face.near(cheek, 0.0, 0.02), (0.17 * u, 0.10 * u), 0.10, raised + 0.4 * pull, clip=SKIN, mode=ADD)
    under = face.path(cheek, [(0.2 * sign, -0.10), (0.0, -0.06), (-0.22 * sign, -0.10)])
    _crease(scene, face, under, 1.2 * raised, 0.014)
    corner = 36 if side == LEFT else 45
    for dy, end in ((-0.03, -0.11), (0.0, -0.01), (0.03, 0.09)):
        foot = face.path(corner, [(0.05 * sign, dy), (0.13 * sign, 0.5 * (dy + end)), (0.23 * sign, end)])
        _crease(scene, face, foot, 0.3 * face.who.age + 1.5 * raised, 0.012)


def _corner(scene: Scene, face: Face, side: int) -> None:
    """Draw the dimple (AU14), the drooping line (AU15), the stretch lines (AU20) and the tension of AU23."""
    sign, u, tint = side_sign(side), face.unit, face.tint
    corner = 48 if side == LEFT else 54
    dimple, droop = face.au("AU14", side), face.au("AU15", side)
    pit = face.path(corner, [(0.06 * sign, -0.08), (0.085 * sign, 0.0), (0.055 * sign, 0.08)])
    _crease(scene, face, pit, 1.8 * dimple + 0.5 * face.au("AU12", side), 0.02)
    scene.blob(face.near(corner, 0.05 * sign, 0.0), (0.06 * u, 0.06 * u), face.dark(0.6), 1.6 * dimple * tint.fold)
    line = face.path(corner, [(0.02 * sign, 0.02), (0.05 * sign, 0.11), (0.03 * sign, 0.22)])
    _crease(scene, face, line, 0.3 * face.who.age + 1.5 * droop, 0.016)
    stretch = face.path(corner, [(0.11 * sign, -0.10), (0.13 * sign, 0.02), (0.10 * sign, 0.15)])
    _crease(scene, face, stretch, 1.3 * face.au("AU20", side), 0.016)
    tense = 1.5 * face.au("AU23", side) * tint.fold
    for index, dy in ((50 if side == LEFT else 52, -0.035), (58 if side == LEFT else 56, 0.045)):
        scene.blob(face.near(index, 0.04 * sign, dy), (0.10 * u, 0.022 * u), face.dark(0.55), tense, clip=SKIN)
