"""Preparing one image: find its face, judge it, cut it out, write it."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fercore.data.images.readers import Reader
from fercore.datasets.prepare.align import FURTHEST, cut_out, misfit
from fercore.datasets.prepare.faces import Detector, Face, choose
from fercore.errors import UserInputError
from fercore.writing import whole

LONGEST = 4096
"""Longer side in pixels from which an image is reduced for the detector."""


@dataclass(frozen=True)
class PrepareSettings:
    """How faces are prepared.

    Attributes:
        size: side of the result in pixels.
        align: "five" = similarity transform of five points, "box" = the box made square.
        margin: share of the aligned face, or of the box, added on every side.
        detector, weights, device: which detector, its weights file, where it runs.
        boxes: CSV file of py-feat or folder of OpenFace that is read instead of detecting.
        choose: which of several faces: "largest", "centre" or "surest".
        min_score: faces the detector is less sure of are refused. min_size: so are faces with a shorter box side.
        image_format: "png" (exact) or "jpg" (small).
    """

    size: int = 112
    align: str = "five"
    margin: float = 0.0
    detector: str = "mtcnn"
    weights: str | None = None
    device: str = "cpu"
    boxes: str | None = None
    choose: str = "largest"
    min_score: float = 0.8
    min_size: int = 20
    image_format: str = "png"

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON values; where a detector runs is no part of the result."""
        values = asdict(self)
        del values["device"]
        return values


class Refused(Exception):
    """An image is not prepared; the message says why in a few words."""


def prepare_one(
    reader: Reader, row: int, path: Path, settings: PrepareSettings, detector: Detector | None, given: list[Face] | None
) -> dict[str, Any]:
    """Write the face in one image and return its record: box, landmarks and score, or `refused`.

    Args:
        reader, row: where the image is. path: of the face, without suffix. settings: how.
        detector: finds the faces, or None where they are `given`.
    """
    try:
        image = reader.read(row)
        faces = given if given is not None else find_faces(detector, image) if detector is not None else []
        face = judged(faces, settings, image)
        pixels = cut_out(image, face, settings.size, align=settings.align, margin=settings.margin)
    except UserInputError as error:
        return {"refused": error.what}
    except (Refused, ValueError) as error:
        return {"refused": str(error)}
    target = path.with_name(f"{path.name}.{settings.image_format}")
    write_image(pixels, target, settings.image_format)
    points = None if face.landmarks is None else np.round(face.landmarks, 2).tolist()
    return {
        "file": target.name,
        "box": [round(float(value), 2) for value in face.box],
        "score": round(face.score, 4),
        "landmarks": points,
        "faces": len(faces),
    }


def find_faces(detector: Detector, image: np.ndarray) -> list[Face]:
    """Return the faces that a detector finds, in the image's own pixels.

    An image longer than LONGEST is shown to it reduced: time and memory of a detector grow with the area.
    """
    step = -(-max(image.shape[:2]) // LONGEST)
    if step < 2:
        return list(detector.detect(image))
    from PIL import Image

    small = np.asarray(Image.fromarray(image).reduce(step))
    return [
        Face(
            (face.box[0] * step, face.box[1] * step, face.box[2] * step, face.box[3] * step),
            face.score,
            None if face.landmarks is None else face.landmarks * step,
        )
        for face in detector.detect(small)
    ]


def judged(faces: list[Face], settings: PrepareSettings, image: np.ndarray) -> Face:
    """Return the face that is taken.

    Raises:
        Refused: if there is none, or none that is sure and large enough, or its points cannot be a face's.
    """
    if not faces:
        raise Refused("no face found")
    sure = [face for face in faces if face.score >= settings.min_score]
    if not sure:
        raise Refused(f"no face surer than {max(face.score for face in faces):.2f}")
    face = choose(sure, settings.choose, image.shape[1], image.shape[0])
    if fault := unfit(face, settings, image):
        raise Refused(fault)
    return face


def unfit(face: Face, settings: PrepareSettings, image: np.ndarray) -> str:
    """Say why a face that is sure enough cannot be taken: too small, outside the image, no face's points; "" if it can.

    Raises:
        ValueError: if its landmarks coincide.
    """
    if face.size < settings.min_size:
        return f"face of {face.size:.0f} pixels"
    left, top, right, bottom = face.box
    if left >= image.shape[1] or top >= image.shape[0] or right <= 0 or bottom <= 0:
        return "face box outside the image"
    if settings.align == "five" and face.landmarks is not None and misfit(face.landmarks) > FURTHEST:
        return "landmarks that fit no face"
    return ""


def write_image(pixels: np.ndarray, path: Path, image_format: str) -> None:
    """Write uint8[S,S,3] whole or not at all; one channel where all three are equal."""
    from PIL import Image

    grey = bool((pixels[:, :, :1] == pixels).all())
    # Encoded in memory: a failure of the encoder leaves no file.
    picture, buffer = Image.fromarray(pixels[:, :, 0] if grey else pixels), io.BytesIO()
    if image_format == "png":
        picture.save(buffer, "png")
    else:
        picture.save(buffer, "jpeg", quality=95)
    with whole(path, sync=False) as file:
        file.write(buffer.getvalue())
