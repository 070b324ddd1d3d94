"""Figures are legible on both backgrounds, for every kind of colour vision, and hold no order to a browser."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from fercore.reporting import figures, style
from fercore.reporting.measures import Reliability

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


def test_captions_say_no_more_than_the_numbers():
    some = np.array([0.4, 0.6])
    for n, said in (
        (20, "as sure as it is right, as far as so few images tell"),
        (20_000, "less sure than it is right"),
    ):
        bins = Reliability(some, some + 0.02, np.array([n, n]), 0.02)
        assert f"the model is {said} (0.020" in figures.reliability_diagram(bins).reading
    exact = figures.reliability_diagram(Reliability(some, some, np.array([9, 9]), 0.0)).reading
    assert "the model is as sure as it is right (0.000" in exact
    recall = {"first": np.array([0.5, 0.5, np.nan]), "better": np.array([0.9, 0.4, np.nan])}
    reading = figures.recall_by_row(recall, ["anger", "fear", "contempt"]).reading
    assert reading.endswith("Beside first, better gains most in anger (+0.40), and pays -0.10 in fear.")
    assert figures.recall_by_row({"first": np.ones(2), "worse": np.zeros(2)}, ["a", "b"]).reading.endswith("pays with.")
    assert "the points say more" in figures.boxes("accuracy", {"first": [0.1, 0.2]}, [0, 1]).reading
    assert "the points say more" not in figures.boxes("accuracy", {"first": [0.1] * 5}, range(5)).reading


def test_the_last_tick_is_inside_the_figure():
    # Wide numbers on the left take from the axes, which then have other ticks than the layout was made for.
    logged = [4.9, 4.04, 4.47, 4.08, 4.41, 4.07, 3.88, 3.82, 3.85, 3.66, 3.24, 3.33, 3.99, 3.42, 3.52, 3.36]
    values = list(zip([1, *range(10, 151, 10)], logged, strict=True))
    svg = ElementTree.fromstring(str(figures.curve("total", {"main": values}).svg))
    width = float(svg.get("viewBox").split()[2])
    texts = [node for node in svg.iter("{http://www.w3.org/2000/svg}text") if (node.text or "").isdigit()]
    # Ticks are written around their middle, three digits about 20 units wide.
    assert max(float(node.get("x")) for node in texts) + 9 < width


def test_a_long_curve_is_drawn_by_its_means():
    logged = [(step, float(step % 2)) for step in range(1, 5001)]
    curve = figures.curve("loss", {"main": logged})
    assert len(curve.svg) < 40_000
    assert {row[2] for row in curve.table.rows} <= {"0.5", "0.497", "0.503"}
