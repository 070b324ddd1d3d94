"""Figures are legible on both backgrounds, for every kind of colour vision, and hold no order to a browser."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from fercore.reporting import figures, style

# Simulation of colour blindness in linear RGB: Machado, Oliveira and Fernandes 2009, table 1, severity 1.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
SETS = [(style.LIGHT, style.SERIES_LIGHT), (style.DARK, style.SERIES_DARK)]


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of the relative luminances."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(XYZ @ np.clip(rgb, 1e-4, 1) / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("base", "series"), SETS)
def test_colours_stand_out_from_their_background(base, series):
    for back in (base["page"], base["surface"]):
        assert min(contrast(base["ink"], back), contrast(base["muted"], back)) >= 4.5
    assert min(contrast(colour, base["surface"]) for colour in series) >= 3


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("base", "series"), SETS)
def test_no_two_series_look_alike(base, series, vision):
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in series]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 20  # 2.3 is just noticeable


def test_a_figure_is_in_the_colours_of_the_page_and_its_texts_are_texts():
    names = ["<script>alert(1)</script>", "$x^2$", "\x1b]0;title\x07", "\u202eleft"]
    matrix = figures.confusion_matrix(np.arange(16).reshape(4, 4), names)
    root = ElementTree.fromstring(matrix.svg)
    texts = "".join(root.itertext())
    assert "<script>alert(1)</script>" in texts
    assert "$x^2$" in texts
    assert r"\u001b]0;title\u0007" in texts
    assert not any(char in matrix.svg for char in "\x1b\x07\u202e")
    assert "#" not in "".join(element.get("style", "") for element in root.iter()).replace("url(#", "")
    assert "var(--ink)" in matrix.svg
    assert "15 times" not in matrix.table.title
    assert root.get("aria-label").startswith("Confusion matrix of 120 images in 4 classes, 30 of them right.")
    assert root.get("width") is None


def test_two_figures_of_a_page_share_no_name():
    one, other = (figures.curve("loss", {"main": [(1, value), (2, 3.0)]}) for value in (1.0, 2.0))
    ids = [{element.get("id") for element in ElementTree.fromstring(f.svg).iter()} - {None} for f in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_long_curve_is_drawn_by_its_means():
    logged = [(step, float(step % 2)) for step in range(1, 5001)]
    curve = figures.curve("loss", {"main": logged})
    assert len(curve.svg) < 40_000
    assert {row[2] for row in curve.table.rows} <= {"0.5", "0.497", "0.503"}
