from __future__ import annotations

import numpy as np
import pytest
from fercore_la_cmfer.distances import domain_distances, feature_distances

RNG = np.random.default_rng(0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def mmd(x, y):
    """The squared MMD of two sets by its definition."""
    rows = np.concatenate([unit(x), unit(y)])
    n = len(rows)
    squares = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    bandwidth = squares.sum() / (n * (n - 1))
    kernel = sum(np.exp(-squares / (bandwidth * 2.0**q)) for q in range(-2, 3))
    weight = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    return np.sqrt(weight @ kernel @ weight)


def test_mmd_of_each_source_to_the_target():
    domain = np.array([0] * 7 + [2] * 5)
    sources = {"a": RNG.normal(size=(12, 4)) + 1, "b": RNG.normal(size=(12, 3))}
    target = {"a": RNG.normal(size=(9, 4)), "b": RNG.normal(size=(9, 3))}
    found = domain_distances(sources, target, domain, ("first", "empty", "last"))
    assert found.keys() == {"first", "last"}
    for name, number in (("first", 0), ("last", 2)):
        for branch in "ab":
            expected = mmd(sources[branch][domain == number], target[branch])
            assert found[name][branch] == pytest.approx(expected, rel=1e-10)


def test_a_domain_is_at_no_distance_from_itself():
    rows = RNG.normal(size=(20, 3)).astype(np.float32)
    found = domain_distances({"a": rows}, {"a": rows}, np.zeros(20, dtype=np.int64), ("same",))
    assert found["same"]["a"] < 1e-3


def test_distances_of_classes():
    features, labels = RNG.normal(size=(8, 3)), np.array([0, 0, 0, 2, 2, 2, 2, -1])
    groups = [unit(features)[labels == k] for k in (0, 2)]
    centres = [g.mean(0) for g in groups]
    intra = np.mean([np.mean([np.linalg.norm(row - c) for row in g]) for g, c in zip(groups, centres, strict=True)])
    inter = np.linalg.norm(centres[0] - centres[1])
    found = feature_distances(features, labels)
    assert found["intra_l2"] == pytest.approx(intra)
    assert found["inter_l2"] == pytest.approx(inter)
    assert found["r"] == pytest.approx(inter / intra)
    assert found["intra_var"] == pytest.approx(np.mean([g.var(0).mean() for g in groups]))


def test_without_labels_or_with_one_class():
    features = RNG.normal(size=(4, 3))
    assert set(feature_distances(features, np.full(4, -1)).values()) == {None}
    one = feature_distances(features, np.zeros(4, dtype=np.int64))
    assert one["inter_l2"] is None
    assert one["r"] is None
    assert one["intra_l2"] > 0
