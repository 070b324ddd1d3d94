"""The kernel distance against its definition, and samples against what chance makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from fercore.evaluation.distances import FeatureSample, distance, spread


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Return the definition: sums over pairs of different rows, five Gaussians around the source's bandwidth."""

    def squared(a, b):
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    n, m = len(x), len(y)
    scale = squared(x, x).sum() / (n * (n - 1))

    def kernel(a, b):
        return sum(np.exp(-squared(a, b) / (scale * 2.0**q)) for q in range(-2, 3))

    within = [(kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return sum(within) - 2 * kernel(x, y).sum() / (n * m)


def test_the_distance_is_that_of_its_definition_and_the_mean_over_branches():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(0.5, 1.3, size=(23, 6))
    first = {"main": x.astype(np.float32)}, {"main": y.astype(np.float32)}
    assert distance(*first) == pytest.approx(unbiased_mmd(x, y), abs=1e-5)
    both = [{"main": a.astype(np.float32), "far": 2 * b.astype(np.float32)} for a, b in ((x, x), (y, y + 3))]
    want = (unbiased_mmd(x, y) + unbiased_mmd(2 * x, 2 * (y + 3))) / 2
    assert distance(*both) == pytest.approx(want, abs=1e-5)


def test_samples_of_one_domain_are_about_nothing_apart_however_small():
    rng = np.random.default_rng(1)
    source = {"main": rng.normal(size=(200, 8)).astype(np.float32)}
    found = [distance(source, {"main": rng.normal(size=(20, 8)).astype(np.float32)}) for _ in range(40)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(40)


def test_the_spread_is_how_much_the_distance_varies():
    rng = np.random.default_rng(2)
    source = {"main": rng.normal(size=(150, 4)).astype(np.float32)}

    def drawn() -> dict[str, np.ndarray]:
        return {"main": rng.normal(0.7, 1, size=(120, 4)).astype(np.float32)}

    true = np.std([distance(source, drawn()) for _ in range(60)])
    assert np.mean([spread(source, drawn(), seed=k) for k in range(6)]) == pytest.approx(true, rel=0.35)


def test_a_sample_is_uniform_and_keeps_branches_together():
    counts = np.zeros(40)
    for seed in range(300):
        sample = FeatureSample(8, _rng=np.random.default_rng(seed))
        for start in range(0, 40, 5):
            rows = np.arange(start, start + 5, dtype=np.float32)[:, None]
            sample.add({"a": rows, "b": -rows})
        found = sample.arrays()
        assert sample.seen == 40
        assert np.array_equal(found["a"], -found["b"])
        counts[found["a"][:, 0].astype(int)] += 1
    assert counts.sum() == 300 * 8
    assert np.abs(counts - 60).max() < 4.5 * np.sqrt(300 * 0.2 * 0.8)
