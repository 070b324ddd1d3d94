"""The face as points: the average face, what an identity changes and what each action unit moves.

Coordinates are in face half-widths: x to the image's right, y down, z towards the viewer, origin between eyes and nose.
Points 0-67 are the usual 68 landmarks; the rest carry folds, hair and neck.
"""

from __future__ import annotations

import numpy as np

from fercore.synthfer.names import AU_INDEX, MAX_INTENSITY
from fercore.synthfer.rng import Array

_JAW = [(-1.0, -0.10), (-0.99, 0.15), (-0.96, 0.40), (-0.90, 0.64), (-0.80, 0.86), (-0.64, 1.06), (-0.45, 1.21),
        (-0.23, 1.31), (0.0, 1.34)]  # fmt: skip
_BROW = [(-0.77, -0.37), (-0.64, -0.45), (-0.48, -0.475), (-0.32, -0.455), (-0.17, -0.42)]
_EYE = [(-0.62, -0.12), (-0.52, -0.205), (-0.35, -0.205), (-0.235, -0.10), (-0.35, -0.045), (-0.52, -0.045)]
_NOSE = [(0.0, -0.12), (0.0, 0.05), (0.0, 0.20), (0.0, 0.34), (-0.18, 0.42), (-0.10, 0.46), (0.0, 0.48)]
_LIPS = [(-0.36, 0.80), (-0.24, 0.735), (-0.09, 0.69), (0.0, 0.705), (0.0, 0.92), (-0.10, 0.91), (-0.24, 0.87)]
_INNER = [(-0.31, 0.80), (-0.12, 0.79), (0.0, 0.795), (0.0, 0.805), (-0.12, 0.803)]
_SKULL = [(-1.02, -0.36), (-0.99, -0.66), (-0.85, -0.96), (-0.50, -1.22), (0.0, -1.31)]


def _average() -> Array:
    """Return the average face, f64[P,2]."""

    def flip(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(-x, y) for x, y in reversed(points)]

    # Landmark order starts at the image-left corner of each eye: the mirrored points are renumbered, not only reversed.
    right_eye = [(-x, y) for x, y in (_EYE[3], _EYE[2], _EYE[1], _EYE[0], _EYE[5], _EYE[4])]
    upper, lower = _LIPS[:3], _LIPS[5:]
    lips = [*upper, _LIPS[3], *flip(upper), *flip(lower), _LIPS[4], *lower]
    inner = [*_INNER[:3], *flip(_INNER[:2]), *flip([_INNER[4]]), _INNER[3], _INNER[4]]
    nose = [*_NOSE, *flip(_NOSE[4:6])]
    marks = [*_JAW, *flip(_JAW[:-1]), *_BROW, *flip(_BROW), *nose, *_EYE, *right_eye, *lips, *inner]
    skull = [*_SKULL, *flip(_SKULL[:-1])]
    fold = [(-0.23, 0.38), (-0.40, 0.55), (-0.48, 0.78)]
    rest = [*fold, *[(-x, y) for x, y in fold], (-0.52, 0.30), (0.52, 0.30), (0.0, 1.13), (0.0, -0.30)]
    rest += [(0.0, -0.72), (-0.50, -0.68), (0.50, -0.68), (-0.43, -0.125), (0.43, -0.125), (0.0, 0.845), (0.0, 0.86)]
    rest += [(-1.04, 0.02), (1.04, 0.02), (-0.62, 0.8), (-0.66, 1.7), (0.66, 1.7), (0.62, 0.8)]
    return np.asarray([*marks, *skull, *rest])


AVERAGE: Array = _average()
SKULL, FOLD_LEFT, FOLD_RIGHT = slice(68, 77), slice(77, 80), slice(80, 83)
CHEEK_LEFT, CHEEK_RIGHT, CHIN, GLABELLA, FOREHEAD, TEMPLE_LEFT, TEMPLE_RIGHT = 83, 84, 85, 86, 87, 88, 89
IRIS_LEFT, IRIS_RIGHT, UPPER_TEETH, LOWER_TEETH, EAR_LEFT, EAR_RIGHT, NECK = 90, 91, 92, 93, 94, 95, slice(96, 100)

Move = tuple[tuple[int, ...], float, float]

MOVES: dict[str, tuple[Move, ...]] = {
    "AU01": (((21,), 0.0, -0.17), ((20,), 0.0, -0.145), ((19,), 0.0, -0.07), ((86,), 0.0, -0.06)),
    "AU02": (((17,), 0.0, -0.13), ((18,), 0.0, -0.18), ((19,), 0.0, -0.12), ((20,), 0.0, -0.04)),
    "AU04": (((21,), 0.07, 0.15), ((20,), 0.06, 0.13), ((19,), 0.03, 0.09), ((18,), 0.02, 0.04), ((86,), 0.0, 0.05)),
    "AU05": (((37, 38), 0.0, -0.085),),
    "AU06": (((40, 41), 0.0, -0.035), ((83,), 0.0, -0.07), ((37,), 0.0, 0.012), ((78,), -0.01, -0.03)),
    "AU07": (((37, 38), 0.0, 0.04), ((40, 41), 0.0, -0.04)),
    "AU09": (((31,), -0.02, -0.07), ((32,), 0.0, -0.05), ((30, 33), 0.0, -0.05), ((21, 20), 0.02, 0.08),
             ((49, 50, 51, 61, 62), 0.0, -0.045), ((77,), 0.0, -0.06), ((40,), 0.0, -0.025)),
    "AU10": (((49,), -0.02, -0.09), ((50,), 0.0, -0.10), ((51,), 0.0, -0.07), ((61, 62), 0.0, -0.085),
             ((31,), -0.03, -0.04), ((77,), -0.01, -0.05), ((78,), -0.02, -0.06)),
    "AU12": (((48, 60), -0.15, -0.13), ((49, 59), -0.08, -0.055), ((61, 67), -0.05, -0.015), ((79,), -0.12, -0.07),
             ((78,), -0.07, -0.05), ((83,), -0.02, -0.05), ((51, 50, 62), 0.0, 0.015), ((31,), -0.02, 0.0)),
    "AU14": (((48, 60), -0.05, -0.01), ((79,), -0.06, 0.0), ((49, 59), -0.02, 0.0)),
    "AU15": (((48, 60), -0.01, 0.13), ((49, 59), 0.0, 0.05), ((61, 67), 0.0, 0.02), ((79,), -0.01, 0.09)),
    "AU17": (((57, 58, 66), 0.0, -0.06), ((59,), 0.0, -0.03), ((51, 62, 50, 61), 0.0, -0.045), ((67,), 0.0, -0.04),
             ((8, 7), 0.0, -0.05), ((85,), 0.0, -0.07)),
    "AU20": (((48, 60), -0.14, 0.03), ((49, 59), -0.08, 0.0), ((50, 61, 67), -0.03, 0.0), ((57, 58), 0.0, 0.02),
             ((79,), -0.11, 0.03)),
    "AU23": (((48, 60), 0.06, 0.0), ((49, 50, 51), 0.0, 0.045), ((57, 58, 59), 0.0, -0.055)),
    "AU25": (((61, 62), 0.0, -0.025), ((66, 67), 0.0, 0.085), ((57, 58, 59), 0.0, 0.07), ((50, 51), 0.0, -0.015)),
    "AU26": (((66, 67), 0.0, 0.25), ((57, 58), 0.0, 0.27), ((59,), 0.03, 0.18), ((8, 7), 0.0, 0.24), ((6,), 0.01, 0.21),
             ((5,), 0.01, 0.15), ((4,), 0.01, 0.08), ((85,), 0.0, 0.25), ((48, 60), 0.06, 0.08), ((49,), 0.04, 0.02),
             ((79,), 0.03, 0.08), ((93,), 0.0, 0.24), ((78,), 0.02, 0.02)),
}  # fmt: skip
"""Unit -> (points of the image-left half, inward x, downward y) at intensity 5; AU45 is a lid position (see _lids)."""

# Point -> the point on the other half: the one nearest to its mirror image.
_MIRROR: Array = np.asarray([int(np.argmin(((AVERAGE - (-x, y)) ** 2).sum(1))) for x, y in AVERAGE])


def _fields() -> Array:
    """Return displacements f64[17,2,P,2] of each unit's image-left and image-right action at intensity 5."""
    fields = np.zeros((len(AU_INDEX), 2, len(AVERAGE), 2))
    for name, moves in MOVES.items():
        for points, dx, dy in moves:
            for p in points:
                central = _MIRROR[p] == p
                # Points on the middle line belong to both halves: each half moves them half as far, and only downwards.
                fields[AU_INDEX[name], 0, p] = (0.0, 0.5 * dy) if central else (dx, dy)
                fields[AU_INDEX[name], 1, int(_MIRROR[p])] = (0.0, 0.5 * dy) if central else (-dx, dy)
    return fields


_FIELDS = _fields()


def _grow(points: Array, index: slice | list[int], factor: Array, center: tuple[float, float], axis: int) -> None:
    """Scale the chosen points of points[N,P,2] along one axis about a centre, in place."""
    points[:, index, axis] = center[axis] + (points[:, index, axis] - center[axis]) * factor[:, None]


def shape_face(shape: dict[str, Array]) -> Array:
    """Return the resting faces of identities, f64[N,P,2]; each field of the shape is about -2 to 2."""
    n = len(shape["height"])
    points = np.repeat(AVERAGE[None], n, axis=0)
    # -1, 0 or 1: image-left half, middle line, image-right half.
    half = np.where(AVERAGE[:, 0] < 0, -1.0, 1.0) * (np.abs(AVERAGE[:, 0]) > 1e-9)
    eye_l, eye_r = [*range(36, 42), IRIS_LEFT], [*range(42, 48), IRIS_RIGHT]
    for eye, cx in ((eye_l, -0.43), (eye_r, 0.43)):
        _grow(points, eye, 1.0 + 0.06 * shape["eye_size"], (cx, -0.12), 0)
        _grow(points, eye, 1.0 + 0.10 * shape["eye_size"], (cx, -0.12), 1)
        tilt = 0.09 * shape["eye_tilt"][:, None]
        points[:, eye, 1] -= tilt * (points[:, eye, 0] - cx) * np.sign(cx)
        points[:, eye, 0] += 0.02 * shape["eye_gap"][:, None] * np.sign(cx)
    points[:, [37, 38, 43, 44], 1] += 0.012 * shape["eye_hood"][:, None]
    points[:, 17:27, 1] += 0.03 * shape["brow_height"][:, None]
    points[:, [18, 19, 24, 25], 1] -= 0.02 * shape["brow_arch"][:, None]
    points[:, 17:27, 0] += 0.02 * shape["brow_width"][:, None] * half[17:27]
    _grow(points, slice(27, 36), 1.0 + 0.07 * shape["nose_length"], (0.0, -0.12), 1)
    _grow(points, slice(31, 36), 1.0 + 0.10 * shape["nose_width"], (0.0, 0.42), 0)
    mouth = [*range(48, 68)]
    _grow(points, mouth, 1.0 + 0.07 * shape["mouth_width"], (0.0, 0.8), 0)
    _grow(points, [49, 50, 51, 52, 53, 55, 56, 57, 58, 59], 1.0 + 0.14 * shape["lips"], (0.0, 0.8), 1)
    points[:, [*mouth, UPPER_TEETH, LOWER_TEETH], 1] += 0.025 * shape["mouth_height"][:, None]
    points[:, 3:14, 0] *= 1.0 + 0.05 * shape["jaw"][:, None] * np.sin(np.linspace(0.5, 2.64, 11))
    points[:, 5:12, 1] += 0.04 * shape["chin"][:, None] * np.sin(np.linspace(0.4, 2.74, 7))
    points[:, SKULL, 1] -= 0.03 * shape["forehead"][:, None]
    points[:, :, 1] *= 1.0 + 0.04 * shape["height"][:, None]
    return points


def move_face(points: Array, intensity: Array, balance: Array) -> Array:
    """Return points f64[N,P,2] moved by intensities f64[N,17] in [0,5] with a balance f64[N,2] of the halves."""
    moved = points.copy()
    for unit in range(intensity.shape[1]):
        for side in range(2):
            # Slightly above 1: a lopsided face moves one half more than the unit's own intensity.
            level = np.clip(intensity[:, unit] * balance[:, side] / MAX_INTENSITY, 0.0, 1.1)
            used = np.flatnonzero(_FIELDS[unit, side].any(axis=1))
            if used.size:
                moved[:, used] += level[:, None, None] * _FIELDS[unit, side, used]
    _lids(moved, intensity[:, AU_INDEX["AU45"]] / MAX_INTENSITY)
    _mouth(moved)
    return moved


def _lids(points: Array, blink: Array) -> None:
    """Close the lids by a blink f64[N] in [0,1], and keep the upper lid above the lower one."""
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        gap = points[:, lower, 1] - points[:, upper, 1]
        # A slit stays: lids that AU07 has closed to nothing would turn inside out.
        shut = np.maximum(gap, 0.03) * (1.0 - np.minimum(1.15 * blink, 0.97))
        bottom = points[:, lower, 1] + 0.02 * blink
        points[:, lower, 1], points[:, upper, 1] = bottom, bottom - shut


def _mouth(points: Array) -> None:
    """Keep the inner lips apart by at least nothing and the outer lips around them, in place."""
    for upper, lower in ((61, 67), (62, 66), (63, 65)):
        middle = 0.5 * (points[:, upper, 1] + points[:, lower, 1])
        crossed = points[:, upper, 1] > points[:, lower, 1]
        points[:, upper, 1] = np.where(crossed, middle, points[:, upper, 1])
        points[:, lower, 1] = np.where(crossed, middle, points[:, lower, 1])
    for outer, inner, sign in ((50, 61, -1), (51, 62, -1), (52, 63, -1), (58, 67, 1), (57, 66, 1), (56, 65, 1)):
        edge = points[:, inner, 1] + sign * 0.035
        points[:, outer, 1] = (np.minimum if sign < 0 else np.maximum)(points[:, outer, 1], edge)
