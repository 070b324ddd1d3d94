"""Action units by the geometry of a face's 468 landmarks, in the face's own frame.

Each reading is a distance or a height between points that the unit's muscle moves, as the FACS manual describes its
appearance (Ekman, Friesen and Hager, *Facial Action Coding System*, 2002), the way that Tian, Kanade and Cohn
("Recognizing action units for facial expression analysis", PAMI 2001) and Valstar and Pantic ("Fully automatic
recognition of the temporal phases of facial actions", SMC-B 2012) take features of tracked points. Those compare a face
with the same face at rest. No face at rest is known here: a reading is compared with those of the other faces.

Points are numbered as in Kartynnik, Ablavatski, Grishchenko and Grundmann, "Real-time facial surface geometry from
monocular video on mobile GPUs", 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fercore.errors import UserInputError

EYE_CORNERS = (33, 263, 133, 362)
"""Outer ones of the picture's left and right eye, then the inner ones."""
INNER_BROW, OUTER_BROW = (55, 107, 285, 336), (46, 70, 276, 300)
LOWER_BROW = (55, 65, 52, 285, 295, 282)
LOWER_LIDS, CHEEKS = (144, 145, 153, 373, 374, 380), (50, 205, 280, 425)
NOSTRILS, UNDER_NOSE, CHIN = (129, 358), 2, 152
LIP_CORNERS, UPPER_LIP, LOWER_LIP = (61, 291), (0, 13), (14, 17)
"""Of the lips the outer and inner edges, from above."""

SCALED_MAD = 1.4826
"""Median absolute deviation times this estimates the standard deviation of a normal distribution."""
LEAST_FACES = 20
"""Of fewer the median and its deviation say little."""
PRESENT_FROM = 1.0
"""Deviations above the median at which a score is 0.5: of a normal distribution 16 % lie higher."""


def readings(points: Tensor) -> dict[str, Tensor]:
    """Return what the points say of each unit, larger = stronger, in distances between the outer eye corners.

    Args:
        points: float[B,468,3]; x to the right, y down, z away from the camera, on one scale.

    Returns:
        "AU01", ... -> float[B]. AU01, AU02: heights of the inner and outer brow over the eyes. AU04: brows low and near
        each other. AU06: the cheeks' height, AU07: the lower lids'. AU09: the nostrils' height. AU10: a short way
        from nose to upper lip. AU12: a wide mouth, its corners high. AU15: its corners low. AU17: a short way from lip
        to chin. AU20: a wide mouth, its corners low. AU23: thin lips. AU25: the gap between the lips. AU26: a long way
        from nose to lower lip.
    """
    face = in_own_frame(points)

    def down(*at: int) -> Tensor:
        heights: Tensor = face[:, list(at), 1].mean(dim=1)
        return heights

    def apart(one: int, other: int) -> Tensor:
        distances: Tensor = (face[:, one] - face[:, other]).norm(dim=1)
        return distances

    width, droop = apart(*LIP_CORNERS), down(*LIP_CORNERS) - down(UPPER_LIP[0], LOWER_LIP[1])
    return {
        "AU01": -down(*INNER_BROW),
        "AU02": -down(*OUTER_BROW),
        "AU04": down(*LOWER_BROW) - apart(55, 285),
        "AU06": -down(*CHEEKS),
        "AU07": -down(*LOWER_LIDS),
        "AU09": -down(*NOSTRILS),
        "AU10": down(UNDER_NOSE) - down(UPPER_LIP[0]),
        # A corner moves half as far up as the mouth grows wider by both.
        "AU12": width - 2 * droop,
        "AU15": droop,
        "AU17": -apart(LOWER_LIP[1], CHIN),
        "AU20": width + 2 * droop,
        "AU23": -apart(*UPPER_LIP) - apart(*LOWER_LIP),
        "AU25": apart(UPPER_LIP[1], LOWER_LIP[0]),
        "AU26": down(*LOWER_LIP) - down(UNDER_NOSE),
    }


def in_own_frame(points: Tensor) -> Tensor:
    """Return points as the face lies: origin between the eyes, x along their outer corners, y towards under the nose.

    Roll, yaw and pitch are gone, as far as the depths are right; the outer corners' distance is 1.

    Args:
        points: float[B,468,3].
    """
    across = points[:, EYE_CORNERS[1]] - points[:, EYE_CORNERS[0]]
    # Points that have fallen into one have no frame; they come out as zeros.
    size = across.norm(dim=1, keepdim=True).clamp_min(1e-6)
    x, middle = across / size, points[:, list(EYE_CORNERS)].mean(dim=1)
    below = points[:, UNDER_NOSE] - middle
    below = below - (below * x).sum(dim=1, keepdim=True) * x
    y = below / below.norm(dim=1, keepdim=True).clamp_min(1e-6)
    axes = torch.stack([x, y, torch.linalg.cross(x, y)], dim=1)
    turned: Tensor = (points - middle[:, None]) @ axes.mT / size[:, None]
    return turned


def relative_scores(values: Tensor, where: str) -> Tensor:
    """Return how far readings lie above the median of all faces, as scores in [0,1].

    A score is the normal distribution's share below z - `PRESENT_FROM`, with z the robust z-score (value - median) /
    (1.4826 MAD): a unit is present (0.5) from one deviation above the median on.

    Args:
        values: float[N,A]; NaN where there is no face. where: who says so, for messages.

    Raises:
        UserInputError: if there are fewer than `LEAST_FACES` faces.
    """
    known = ~values.isnan().any(dim=1)
    faces = values[known].double()
    if len(faces) < LEAST_FACES:
        what = f"faces in {len(faces)} of {len(values)} images, and at least {LEAST_FACES} are compared with each other"
        raise UserInputError(what, where=where, fix="give more images, or a file of action units")
    median = faces.median(dim=0).values
    spread = SCALED_MAD * (faces - median).abs().median(dim=0).values
    # Where most faces are alike in a reading, none of it stands out.
    z = (values.double() - median) / spread.clamp_min(1e-6)
    scores: Tensor = torch.special.ndtr(z - PRESENT_FROM).to(values.dtype)
    return scores
