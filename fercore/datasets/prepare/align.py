"""Cutting a face out: by a similarity transform that puts five points where they belong, or by its box."""

from __future__ import annotations

import numpy as np

from fercore.datasets.prepare.faces import Face

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""Where the five points lie in an aligned face of 112x112 pixels: the template of ArcFace (Deng et al., CVPR 2019)."""

SIDE = 112
FURTHEST = 0.25
"""Mean distance of the points from the template, as a share of the distance between its eyes, above which they are no
upright frontal-to-profile face but a mistake of the detector."""


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return float64[2,3]: scale, rotation and shift that bring points nearest to others in the least-squares sense.

    Umeyama, TPAMI 1991, equations 40 to 43, in two dimensions, reflections excluded.

    Args:
        source, target: float[n,2], at least two different source points.

    Raises:
        ValueError: if the source points coincide.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    from_mean, to_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - from_mean, target - to_mean
    spread = float((a**2).sum())
    if not np.isfinite(spread) or spread < 1e-9:
        raise ValueError("the points coincide")
    # In two dimensions the solution has a closed form without a singular value decomposition:
    # the rotation and scale are one complex number, sum(conj(a) b) / sum |a|^2.
    along = float((a * b).sum()) / spread
    across = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    linear = np.array([[along, -across], [across, along]])
    shift = to_mean - linear @ from_mean
    return np.concatenate([linear, shift[:, None]], axis=1)


def template(size: int, margin: float) -> np.ndarray:
    """Return where the five points belong in an image of `size`; `margin` is the share of its side added all round."""
    return (TEMPLATE + SIDE * margin) * size / (SIDE * (1 + 2 * margin))


def misfit(landmarks: np.ndarray) -> float:
    """Return how far five points, aligned as well as can be, lie from the template, as a share of its eye distance.

    Raises:
        ValueError: if they coincide.
    """
    matrix = similarity(landmarks, TEMPLATE)
    placed = landmarks @ matrix[:, :2].T + matrix[:, 2]
    eyes = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))
    return float(np.linalg.norm(placed - TEMPLATE, axis=1).mean()) / eyes


def cut_out(image: np.ndarray, face: Face, size: int, *, align: str, margin: float) -> np.ndarray:
    """Return a face as uint8[size,size,3].

    Args:
        image: uint8[H,W,3]. face: where it is. size: side in pixels.
        align: "five" = by landmarks (by the box where there are none), "box" = the box made square.
        margin: share of the aligned face, or of the box, added on every side. What lies outside the image is the
            image's edge continued.

    Raises:
        ValueError: if the landmarks coincide or the box is empty.
    """
    if align == "five" and face.landmarks is not None:
        return warp(image, similarity(face.landmarks, template(size, margin)), size)
    left, top, right, bottom = face.box
    side = max(right - left, bottom - top) * (1 + 2 * margin)
    if not np.isfinite(side) or side < 1:
        raise ValueError("the box is empty")
    scale = size / side
    middle = (left + right) / 2, (top + bottom) / 2
    matrix = np.array([[scale, 0, size / 2 - scale * middle[0]], [0, scale, size / 2 - scale * middle[1]]])
    return warp(image, matrix, size)


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return uint8[size,size,3]: the image where a similarity float[2,3] puts it, free of aliasing.

    Args:
        image: uint8[H,W,3]. matrix: from the image's pixel coordinates to the result's.
    """
    from PIL import Image

    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    # A transform samples points: shrinking to less than half goes through an area mean first.
    step = min(max(1, int(1 / max(scale, 1e-6))), max(1, min(image.shape[:2])))
    image, inverse = _part(image, inverse, size, 4 * step)
    picture = Image.fromarray(image)
    if step > 1:
        picture = picture.reduce(step)
        inverse = np.diag([1 / step, 1 / step, 1.0]) @ inverse
    data = tuple(inverse[:2].ravel().tolist())
    return np.asarray(picture.transform((size, size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC))


def _part(image: np.ndarray, inverse: np.ndarray, size: int, more: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of an image that the result needs, its edge continued where it reaches outside, and the map.

    `more` pixels are added all round, for filters.
    """
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], dtype=np.float64) @ inverse.T
    low = np.floor(corners[:, :2].min(axis=0)).astype(int) - more
    high = np.ceil(corners[:, :2].max(axis=0)).astype(int) + more
    height, width = image.shape[:2]
    # Only so much edge as half an image: a box far outside is not worth the memory.
    low = np.maximum(low, [-width // 2 - 4, -height // 2 - 4])
    high = np.minimum(high, [width + width // 2 + 4, height + height // 2 + 4])
    # Clipped indices repeat the edge.
    columns = np.clip(np.arange(low[0], max(high[0], low[0] + 1)), 0, width - 1)
    rows = np.clip(np.arange(low[1], max(high[1], low[1] + 1)), 0, height - 1)
    moved = np.eye(3)
    moved[:2, 2] = -low
    return np.ascontiguousarray(image[np.ix_(rows, columns)]), moved @ inverse
