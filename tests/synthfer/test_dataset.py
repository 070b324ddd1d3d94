from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fercore.data.labels import CANONICAL
from fercore.errors import UserInputError
from fercore.synthfer import AU_NAMES, STYLES, SynthFER


@pytest.mark.parametrize("style", STYLES)
def test_every_style_has_the_promised_arrays(style):
    data = SynthFER(style, n=30, seed=2)
    size = 48 if style == "web" else 64
    images = data.render(range(6))
    assert images.shape == (6, size, size, 3)
    assert images.dtype == np.uint8
    assert images.reshape(6, -1).std(axis=1).min() > 4
    assert data.labels.dtype == np.int64
    assert data.labels.shape == data.true_labels.shape == (30,)
    assert data.au_intensity.shape == data.au_scores.shape == (30, len(AU_NAMES))
    assert data.au_intensity.dtype == data.au_scores.dtype == np.float32
    assert data.au_intensity.min() >= 0
    assert data.au_intensity.max() <= 5
    assert data.au_scores.min() >= 0
    assert data.au_scores.max() <= 1
    grey = (images == images[..., :1]).all()
    assert grey == (style not in ("wild", "dark"))


@pytest.mark.parametrize("style", STYLES)
def test_landmarks_lie_on_the_image_and_in_order(style):
    data = SynthFER(style, n=40)
    marks = data.landmarks(range(40))
    assert marks.shape == (40, 68, 2)
    assert marks.dtype == np.float32
    inside = (marks > -0.2 * data.size) & (marks < 1.2 * data.size)
    assert inside.all()
    eyes, mouth, chin = marks[:, 36:48, 1].mean(1), marks[:, 48:60, 1].mean(1), marks[:, 8, 1]
    assert (eyes < mouth).all()
    assert (mouth < chin).all()
    assert (marks[:, 36, 0] < marks[:, 45, 0]).all()


def test_an_image_depends_on_its_index_alone():
    short, long = SynthFER("wild", n=12, seed=4, size=32), SynthFER("wild", n=500, seed=4, size=32)
    images = long.render(range(12))
    np.testing.assert_array_equal(short.render(range(12)), images)
    np.testing.assert_array_equal(long.render([11, 3, 3])[1], images[3])
    np.testing.assert_array_equal(long[7].image, images[7])
    np.testing.assert_array_equal(long[7].landmarks, long.landmarks(range(12))[7])
    np.testing.assert_array_equal(short.labels, long.labels[:12])
    np.testing.assert_array_equal(short.au_intensity, long.au_intensity[:12])
    assert short.subjects == long.subjects[:12]
    np.testing.assert_array_equal(long.render([-1]), long.render([499]))


def test_batches_longer_than_one_chunk_agree_with_single_images():
    data = SynthFER("web", n=80, size=16)
    images = data.render(range(80))
    for i in (0, 63, 64, 79):
        np.testing.assert_array_equal(data.render([i])[0], images[i])
    assert data.render([]).shape == (0, 16, 16, 3)
    assert data.landmarks([]).shape == (0, 68, 2)


@pytest.mark.slow
def test_another_process_draws_the_same_image():
    code = "import zlib; from fercore.synthfer import SynthFER; print(zlib.crc32(SynthFER('nir', 5, 1)[3].image))"
    here = __import__("zlib").crc32(SynthFER("nir", 5, 1)[3].image)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == here


def test_seeds_and_styles_differ():
    first, second = SynthFER("studio", 20, 0, 16), SynthFER("studio", 20, 1, 16)
    assert (first.render(range(20)) != second.render(range(20))).mean() > 0.5
    assert not set(first.subjects) & set(second.subjects)


def test_a_sample_says_what_the_arrays_say():
    data = SynthFER("posed", n=9, size=16)
    sample = data[5]
    assert (sample.label, sample.subject) == (data.labels[5], data.subjects[5])
    np.testing.assert_array_equal(sample.au_intensity, data.au_intensity[5])
    np.testing.assert_array_equal(sample.au_scores, data.au_scores[5])
    with pytest.raises(IndexError, match="9 images"):
        data[9]
    assert sum(1 for _ in data) == len(data) == 9


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("n", [7, 100, 703])
def test_balanced_prior_has_equal_counts_and_no_pattern(style, n):
    labels = SynthFER(style, n=n).labels
    counts = np.bincount(labels, minlength=7)
    assert counts.max() - counts.min() <= 1
    assert n < 50 or not (labels[: n // 7 * 7].reshape(-1, 7) == labels[:7]).all()


def test_natural_prior_is_skewed_towards_happiness_in_the_wild():
    counts = np.bincount(SynthFER("wild", n=3000, prior="natural").labels, minlength=7)
    assert counts[CANONICAL.index("happiness")] == counts.max()
    assert counts.max() > 5 * counts.min()


def test_classes_are_indexed_in_the_order_asked_for():
    data = SynthFER("studio", n=400, classes=("happiness", "contempt"))
    assert set(data.labels.tolist()) == {0, 1}
    smile = data.au_intensity[:, AU_NAMES.index("AU12")]
    dimple = data.au_intensity[:, AU_NAMES.index("AU14")]
    assert smile[data.labels == 0].mean() > smile[data.labels == 1].mean() + 1
    assert dimple[data.labels == 1].mean() > dimple[data.labels == 0].mean() + 1


@pytest.mark.parametrize(("style", "low", "high"), [("web", 0.10, 0.14), ("wild", 0.02, 0.06), ("studio", 0, 0)])
def test_label_noise_is_what_the_style_says(style, low, high):
    data = SynthFER(style, n=4000, seed=3)
    assert low <= (data.labels != data.true_labels).mean() <= high


def test_label_noise_with_one_class_changes_nothing():
    data = SynthFER("web", n=50, classes=("fear",))
    assert set(data.true_labels.tolist()) == {0}


def test_subjects():
    data = SynthFER("wild", n=1000, seed=5)
    names, counts = np.unique(data.subjects, return_counts=True)
    assert len(names) == 50
    assert (counts == 20).all()
    assert names[0] == "wild-5-0000"
    assert len(set(SynthFER("wild", n=10).subjects)) == 10


def test_a_subject_keeps_its_face():
    data = SynthFER("studio", n=200, size=32)
    images = data.render(range(200)).astype(float)[..., 0]
    subjects = np.asarray(data.subjects)
    same = subjects[:, None] == subjects[None]
    gap = np.sqrt(((images[:, None, :12] - images[None, :, :12]) ** 2).mean(axis=(2, 3)))
    assert gap[same & ~np.eye(200, dtype=bool)].mean() < 0.8 * gap[~same].mean()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"style": "wilde"}, "did you mean 'wild'"),
        ({"prior": "balance"}, "did you mean 'balanced'"),
        ({"classes": ("anger", "hapiness")}, "did you mean 'happiness'"),
        ({"classes": ("anger", "anger")}, "different"),
        ({"classes": ()}, "at least one"),
        ({"n": 0}, "n must be"),
        ({"size": 15}, "16 pixels"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, text):
    with pytest.raises(UserInputError, match=text) as caught:
        SynthFER(**{"style": "wild", "n": 10, **settings})
    assert "\n" not in str(caught.value)


def test_importing_and_labelling_need_no_compiler():
    code = "import sys; from fercore.synthfer import SynthFER; SynthFER('wild', 9).landmarks([0]); " + (
        "print([m for m in ('numba', 'torch', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
