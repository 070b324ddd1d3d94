from __future__ import annotations

import numpy as np
import pytest

from fercore.data.labels import CANONICAL
from fercore.synthfer import AU_NAMES, STYLES, SynthFER
from fercore.synthfer.emotions import PATTERNS, Expression
from fercore.synthfer.painting.render import build_face, photograph
from fercore.synthfer.rng import Draw
from fercore.synthfer.styles import NATURAL_PRIOR, TABLE

SIZE = 96
BROWS, EYES, NOSE, MOUTH, JAW = range(17, 27), range(36, 48), range(27, 36), range(48, 68), range(4, 13)
# unit -> landmarks around which it shows, and how far beyond them (in eye distances: left, top, right, bottom)
REGIONS = {
    "AU01": (BROWS, 0.3, 0.8, 0.3, 0.3), "AU02": (BROWS, 0.3, 0.8, 0.3, 0.3), "AU04": (BROWS, 0.3, 0.5, 0.3, 0.4),
    "AU05": (EYES, 0.2, 0.3, 0.2, 0.2), "AU06": (EYES, 0.8, 0.3, 0.8, 1.2), "AU07": (EYES, 0.2, 0.2, 0.2, 0.3),
    "AU09": (NOSE, 1.1, 1.0, 1.1, 0.9), "AU10": (MOUTH, 0.3, 0.9, 0.3, 0.2), "AU12": (MOUTH, 0.6, 1.2, 0.6, 0.3),
    "AU14": (MOUTH, 0.4, 0.3, 0.4, 0.2), "AU15": (MOUTH, 0.5, 0.9, 0.5, 0.5), "AU17": (JAW, 0.1, 1.2, 0.1, 0.6),
    "AU20": (MOUTH, 0.6, 0.9, 0.6, 0.4), "AU23": (MOUTH, 0.2, 0.2, 0.2, 0.2), "AU25": (MOUTH, 0.2, 0.2, 0.2, 0.3),
    "AU26": ([*MOUTH, *JAW], 0.3, 0.4, 0.3, 0.7), "AU45": (EYES, 0.2, 0.3, 0.2, 0.3),
}  # fmt: skip


def faces(intensity: np.ndarray, style: str = "studio"):
    """Render one plain face per row of intensities, all of the same subject and image stream."""
    n = len(intensity)
    subject, image = Draw("s", np.full(n, 2)), Draw("i", np.full(n, 3))
    face = build_face(style, subject, image, Expression(intensity, np.ones((n, 2))), SIZE)
    return photograph(face, style), face.points[:, :68]


@pytest.mark.parametrize("unit", AU_NAMES)
def test_a_unit_moves_pixels_in_its_own_region(unit):
    intensity = np.zeros((2, 17))
    intensity[1, AU_NAMES.index(unit)] = 5
    images, marks = faces(intensity)
    change = np.abs(images[1].astype(int) - images[0].astype(int))[..., 0]
    points, left, top, right, bottom = REGIONS[unit]
    around = marks[:, list(points)]
    step = np.linalg.norm(marks[0, 39] - marks[0, 42])
    low, high = around.min(axis=(0, 1)), around.max(axis=(0, 1))
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    inside = (x > low[0] - left * step) & (x < high[0] + right * step)
    inside &= (y > low[1] - top * step) & (y < high[1] + bottom * step)
    assert change[inside].max() > 20
    assert (change[inside] > 10).sum() >= 12
    assert change[inside].sum() > 0.85 * change.sum()


def test_stronger_is_further():
    levels = np.zeros((4, 17))
    levels[:, AU_NAMES.index("AU12")] = (0, 1.5, 3, 5)
    _, marks = faces(levels)
    width = np.linalg.norm(marks[:, 54] - marks[:, 48], axis=1)
    assert (np.diff(width) > 0.5).all()


def test_a_blink_closes_the_eyes_and_a_jaw_drop_opens_the_mouth():
    levels = np.zeros((3, 17))
    levels[1, AU_NAMES.index("AU45")] = 5
    levels[2, [AU_NAMES.index("AU25"), AU_NAMES.index("AU26")]] = 5
    _, marks = faces(levels)
    eye, mouth = marks[:, 41, 1] - marks[:, 37, 1], marks[:, 66, 1] - marks[:, 62, 1]
    assert eye[1] < 0.3 * eye[0]
    assert mouth[2] > mouth[0] + 0.05 * SIZE


def share_with(emotion: str, unit: str, style: str = "studio", above: float = 1.0) -> float:
    data = SynthFER(style, n=2000, classes=CANONICAL)
    mine = data.true_labels == CANONICAL.index(emotion)
    return float((data.au_intensity[mine, AU_NAMES.index(unit)] > above).mean())


@pytest.mark.parametrize("style", STYLES)
def test_happiness_nearly_always_smiles_and_no_other_emotion_does(style):
    assert share_with("happiness", "AU12", style) > 0.95
    assert max(share_with(name, "AU12", style) for name in CANONICAL[:7] if name != "happiness") < 0.2


@pytest.mark.parametrize(
    ("emotion", "unit"), [("anger", "AU04"), ("fear", "AU05"), ("contempt", "AU14"), ("sadness", "AU15")]
)
def test_emotions_show_their_mark(emotion, unit):
    assert share_with(emotion, unit) > 0.9


def test_surprise_raises_brows_and_opens_the_mouth_mostly():
    assert share_with("surprise", "AU02") > 0.8
    assert share_with("surprise", "AU25") > 0.75


def test_an_emotion_is_more_than_one_template():
    data = SynthFER("studio", n=1400)
    for label in range(6):
        codes = {tuple(row) for row in data.au_intensity[data.true_labels == label] > 1.2}
        assert len(codes) > 5


def test_neutral_is_nearly_still():
    data = SynthFER("studio", n=1400)
    assert data.au_intensity[data.true_labels == CANONICAL.index("neutral")].sum(axis=1).mean() < 3


def test_detector_scores_follow_the_intensities():
    data = SynthFER("studio", n=1000)
    assert ((data.au_scores >= 0.5) == (data.au_intensity > 1.2)).mean() > 0.9
    rough = SynthFER("thermal", n=1000)
    assert ((rough.au_scores >= 0.5) == (rough.au_intensity > 1.2)).mean() < 0.97


def test_contempt_acts_on_one_side():
    data = SynthFER("studio", n=100, classes=("contempt",))
    marks = data.landmarks(range(100))
    rise = marks[:, 48, 1] - marks[:, 54, 1]
    assert np.abs(rise).mean() > 0.4


def test_tables_cover_every_style_and_emotion():
    assert set(TABLE) == set(NATURAL_PRIOR) == set(STYLES)
    assert all(len(prior) == len(CANONICAL) for prior in NATURAL_PRIOR.values())
    assert set(PATTERNS) == set(CANONICAL)
