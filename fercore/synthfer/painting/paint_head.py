"""Painters of the head: neck, ears, skin, soft shadows, beard, hair."""

from __future__ import annotations

import numpy as np

from fercore.synthfer import anatomy as a
from fercore.synthfer.painting.face import LEFT, RIGHT, Face, side_sign
from fercore.synthfer.painting.scene import ADD, MULTIPLY, PERSON, SKIN, Scene
from fercore.synthfer.rng import Array

BALD, SHORT, FRINGE, LONG, CURLY, BUN = range(6)


def _worn(face: Face, *styles: int) -> Array:
    return np.isin(face.who.style, styles).astype(np.float64)


def paint_back(scene: Scene, face: Face) -> None:
    """Paint what lies behind the face: long hair, a bun, neck, clothing, ears."""
    p, u, tint = face.points, face.unit, face.tint
    skull = p[:, 68:77]
    top = skull[:, 4:5]
    fall = face.path(a.NECK.start, [(-0.50, -0.6), (-0.58, 0.1), (-0.45, 0.45)])
    rise = face.path(a.NECK.stop - 1, [(0.45, 0.45), (0.58, 0.1), (0.50, -0.6)])
    mane = np.concatenate([fall[:, ::-1], _puff(face, 1.16), rise[:, ::-1]], axis=1)
    scene.fill(mane, 0.85 * tint.hair, _worn(face, LONG), store=PERSON)
    scene.ellipse(top[:, 0], (0.36 * u, 0.30 * u), 0.9 * tint.hair, _worn(face, BUN), store=PERSON)
    curls = _worn(face, CURLY)
    for share in range(1, 8):
        scene.ellipse(skull[:, share], (0.33 * u, 0.33 * u), 0.85 * tint.hair, curls, store=PERSON)
    shoulders = face.path(a.NECK.start + 1, [(-1.4, 0.35), (-0.7, -0.22), (0.0, -0.42)])
    other = face.path(a.NECK.stop - 2, [(0.0, -0.42), (0.7, -0.22), (1.4, 0.35)])
    neck = p[:, a.NECK]
    scene.fill(neck, 0.86 * tint.skin, smooth=False, store=PERSON)
    scene.blob(face.near(8, 0.0, 0.02), (0.55 * u, 0.22 * u), face.dark(0.5), 1.6 * tint.fold)
    dip = face.between(a.NECK.start + 1, a.NECK.stop - 2)[:, None]
    floor = np.full((len(u), 2, 2), 2.0 * face.size)
    # Corners far below the image: clothing ends outside it.
    floor[:, 1, 0] = -face.size
    scene.fill(np.concatenate([shoulders, dip, other, floor], axis=1), tint.cloth, smooth=False, store=PERSON)
    _back_of_head(scene, face)
    for side, ear in ((LEFT, a.EAR_LEFT), (RIGHT, a.EAR_RIGHT)):
        scene.ellipse(p[:, ear], (0.11 * u, 0.24 * u), 0.92 * tint.skin, angle=-0.15 * side_sign(side), store=PERSON)
        scene.blob(p[:, ear], (0.05 * u, 0.11 * u), face.dark(0.4), tint.fold)


def _back_of_head(scene: Scene, face: Face) -> None:
    """Paint the head between face and ears, which shows when the head turns."""
    p, ears = face.points, face.between(a.EAR_LEFT, a.EAR_RIGHT)
    behind = (ears - face.between(0, 16))[:, None]
    head = np.concatenate([p[:, 1:16], p[:, a.SKULL][:, ::-1]], axis=1) + behind
    scene.fill(head, 0.92 * face.tint.skin, store=PERSON)
    temples = np.stack([p[:, 0], p[:, 16]], axis=1)[:, ::-1] * 0.8 + 0.2 * ears[:, None]
    crown = np.concatenate([_puff(face, 1.08, 1.0), temples], axis=1) + behind
    scene.fill(crown, 0.9 * face.tint.hair, 1.0 - _worn(face, BALD), smooth=False, store=PERSON)


def paint_skin(scene: Scene, face: Face) -> None:
    """Paint the face's skin and the soft shadows that give it relief."""
    p, u, tint = face.points, face.unit, face.tint
    scene.fill(np.concatenate([p[:, :17], p[:, a.SKULL][:, ::-1]], axis=1), tint.skin, store=PERSON)
    scene.fill(np.concatenate([p[:, :17], p[:, a.SKULL][:, ::-1]], axis=1), tint.skin, 1.0, store=SKIN)
    relief = 1.6 * tint.fold
    for eye, iris in ((39, a.IRIS_LEFT), (42, a.IRIS_RIGHT)):
        scene.blob(p[:, iris], (0.24 * u, 0.15 * u), face.dark(0.42), relief * 0.55, clip=SKIN)
        scene.blob(face.between(eye, 27, 0.35), (0.07 * u, 0.15 * u), face.dark(0.40), relief * 0.55, clip=SKIN)
    scene.blob(face.near(57, 0.0, 0.085), (0.20 * u, 0.05 * u), face.dark(0.45), relief * 0.5, clip=SKIN)
    scene.blob(face.near(33, 0.0, 0.05), (0.15 * u, 0.06 * u), face.dark(0.45), relief * 0.6, clip=SKIN)
    scene.blob(face.near(29, 0.0, 0.0), (0.055 * u, 0.22 * u), 0.09, relief, clip=SKIN, mode=ADD)
    scene.blob(p[:, a.FOREHEAD], (0.42 * u, 0.20 * u), 0.05, relief, clip=SKIN, mode=ADD)
    for cheek in (a.CHEEK_LEFT, a.CHEEK_RIGHT):
        scene.blob(p[:, cheek], (0.20 * u, 0.16 * u), 0.05, relief, clip=SKIN, mode=ADD)
        if face.spectrum == "visible":
            blush = np.asarray([1.0, 0.82, 0.82])
            scene.blob(face.near(cheek, 0.0, 0.12), (0.22 * u, 0.17 * u), blush, 0.7 - 0.5 * face.who.skin, clip=SKIN)
    if face.spectrum == "thermal":
        scene.blob(face.near(30, 0.0, 0.02), (0.13 * u, 0.17 * u), 0.70, 0.95, clip=SKIN)
        for corner in (39, 42):
            scene.blob(p[:, corner], (0.10 * u, 0.10 * u), 0.20, 1.0, clip=SKIN, mode=ADD)
    _freckles(scene, face)
    _beard(scene, face)


def _freckles(scene: Scene, face: Face) -> None:
    for k in range(8):
        cheek = a.CHEEK_LEFT if k % 2 else a.CHEEK_RIGHT
        dx, dy = face.draw.uniform(f"freckle/x{k}", -0.2, 0.2), face.draw.uniform(f"freckle/y{k}", -0.1, 0.2)
        axes = (0.018 * face.unit, 0.018 * face.unit)
        scene.blob(face.near(cheek, dx, dy), axes, face.dark(0.3), 0.7 * face.who.freckles)


def _beard(scene: Scene, face: Face) -> None:
    p, who, tint = face.points, face.who, face.tint
    upper = np.stack([p[:, 2], face.between(3, 48), face.near(48, -0.08, 0.02), face.near(57, 0.0, 0.10)], axis=1)
    back = np.stack([face.near(54, 0.08, 0.02), face.between(13, 54), p[:, 14]], axis=1)
    outline = np.concatenate([upper, back, p[:, 3:14][:, ::-1]], axis=1)
    scene.fill(outline, tint.beard, 0.9 * who.beard, clip=SKIN)
    scene.fill(outline, face.dark(0.45), 0.35 * who.stubble, clip=SKIN, mode=MULTIPLY)
    lip = np.stack([face.near(48, 0.0, -0.06), face.between(50, 32, 0.28), face.between(51, 33, 0.3),
                    face.between(52, 34, 0.28), face.near(54, 0.0, -0.06)], axis=1)  # fmt: skip
    thick = np.asarray([0.02, 0.04, 0.032, 0.04, 0.02])
    scene.stroke(lip, face.unit[:, None] * thick, tint.beard, 0.9 * who.moustache, clip=SKIN, soft=1.4)
    scene.stroke(lip, face.unit[:, None] * thick, face.dark(0.4), 0.4 * who.stubble, clip=SKIN, mode=MULTIPLY)


def _puff(face: Face, factor: float, ends: float | None = None) -> Array:
    """Return the skull's outline f64[N,9,2], grown about the head's middle by a factor (by `ends` at its ends)."""
    middle = face.between(27, 30)[:, None]
    low = factor if ends is None else ends
    grow = low + (factor - low) * np.sqrt(np.sin(np.linspace(0.0, np.pi, 9)).clip(0.0))
    outline: Array = middle + (face.points[:, a.SKULL] - middle) * grow[:, None]
    return outline


def paint_hair(scene: Scene, face: Face) -> None:
    """Paint the hair that lies over the forehead and the temples."""
    u, tint, who = face.unit, face.tint, face.who
    line = 0.06 * who.shape["hairline"]
    part = 0.25 * face.draw.uniform("part", -1.0, 1.0)
    outer = _puff(face, 1.09, 1.0)
    high = [(0.98, 0.62), (0.91, 0.35), (0.80, 0.05), (0.50, -0.10), (0.0, -0.13), (-0.50, -0.10), (-0.80, 0.05),
            (-0.91, 0.35), (-0.98, 0.62)]  # fmt: skip
    low = [(0.98, 0.66), (0.91, 0.42), (0.80, 0.16), (0.50, 0.17), (0.05, 0.12), (-0.45, 0.16), (-0.80, 0.16),
           (-0.91, 0.42), (-0.98, 0.66)]  # fmt: skip
    hairline = face.path(a.FOREHEAD, [(x + (part if abs(x) < 0.5 else 0.0), y + line) for x, y in high])
    fringe = face.path(a.FOREHEAD, [(x, y + 0.5 * line) for x, y in low])
    for edge, worn in ((hairline, _worn(face, SHORT, LONG, CURLY, BUN)), (fringe, _worn(face, FRINGE))):
        scene.fill(np.concatenate([outer, edge], axis=1), tint.hair, worn, store=PERSON)
    gloss = np.stack([outer[:, k] * 0.86 + face.points[:, a.FOREHEAD] * 0.14 for k in (2, 3, 4, 5, 6)], axis=1)
    covered = 1.0 - _worn(face, BALD)
    scene.stroke(gloss, 0.05 * u[:, None], 0.10, covered, soft=0.16 * u, mode=ADD)
    for k in range(5):
        x = -0.7 + 0.35 * k + 0.1 * face.draw.uniform(f"lock/{k}", -1.0, 1.0)
        lock = face.path(a.FOREHEAD, [(0.7 * x, -0.62), (0.9 * x, -0.40), (x, -0.18)])
        scene.stroke(lock, 0.012 * u[:, None], 0.62, 0.6 * covered, soft=1.2, mode=MULTIPLY)
