"""Preparing faces: the geometry, and which face is taken."""

from __future__ import annotations

import numpy as np
import pytest

from fercore.datasets.prepare import PrepareSettings
from fercore.datasets.prepare.align import TEMPLATE, cut_out, misfit, similarity, template, warp
from fercore.datasets.prepare.faces import Face, choose, five_of_68
from fercore.datasets.prepare.one import Refused, judged


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
