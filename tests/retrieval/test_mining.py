"""Every triplet obeys its rule, draws are uniform, and what is reported equals brute force."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from fercore.retrieval import code_keys, pack_codes
from fercore.retrieval import draw as compiled
from fercore.retrieval.mining import au_similarity, mine_triplets
from fercore.retrieval.rng import draw_below

CLOSE = 1e-6


def faces(n, seed, aus=9, pool=30):
    """Scores around a few prototypes, with equal rows and rows of zeros, and their keys."""
    rng = np.random.default_rng(seed)
    prototypes = np.random.default_rng(99).random((pool, aus)) ** 2
    scores = (prototypes[rng.integers(0, pool, n)] + rng.normal(0, 0.1, (n, aus))).clip(0, 1)
    scores[: n // 10] = 0
    scores[n // 10 : n // 5] = scores[n // 5]
    return scores, code_keys(pack_codes(scores))


def table(a, b, similarity):
    """Return all similarities [N,M] in float64, literally."""
    if similarity == "one_minus_l1":
        return 1 - np.abs(a[:, None] - b[None]).mean(axis=2)
    norms = (np.maximum(np.linalg.norm(x, axis=1), 1e-12) for x in (a, b))
    left, right = norms
    return (a @ b.T) / left[:, None] / right[None]


@pytest.mark.slow
@pytest.mark.parametrize("tries", [0, 64])
@pytest.mark.parametrize("similarity", ["cosine", "one_minus_l1"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9, 0.97, 0.9999, 1.0])
@pytest.mark.parametrize("by_class", [False, True])
def test_every_triplet_obeys_its_rule(tau, similarity, by_class, tries, monkeypatch):
    monkeypatch.setattr(compiled, "TRIES", tries)
    (a, a_keys), (b, b_keys) = faces(400, 1), faces(900, 2)
    labels = [np.random.default_rng(s).integers(-1, 4, n) for s, n in ((3, 400), (4, 900))]
    mined = mine_triplets(
        a, a_keys, b, b_keys, similarity=similarity, tau_n=tau, seed=5, exclude=labels if by_class else None
    )
    similar = table(a.astype(np.float32).astype(float), b.astype(np.float32).astype(float), similarity)
    same = a_keys[:, None] == b_keys[None]
    excluded = (labels[0][:, None] == labels[1][None]) & (labels[0] >= 0)[:, None] if by_class else np.zeros_like(same)
    allowed = ~same & ~excluded
    wanted = same.any(axis=1) & allowed.any(axis=1)
    assert np.array_equal(mined.anchor, np.flatnonzero(wanted))
    assert mined.without_positive == (~same.any(axis=1)).sum()
    assert mined.without_negative == (same.any(axis=1) & ~allowed.any(axis=1)).sum()
    assert same[mined.anchor, mined.positive].all()
    assert allowed[mined.anchor, mined.negative].all()
    got = similar[mined.anchor, mined.negative]
    assert (got[~mined.fell_back] > tau - CLOSE).all()
    most = np.where(allowed, similar, -np.inf).max(axis=1)[mined.anchor]
    assert (np.abs(got - most)[mined.fell_back] < CLOSE).all()
    assert (most[mined.fell_back] <= tau + CLOSE).all()
    assert (most[~mined.fell_back] > tau - CLOSE).all()
    assert mined.fallbacks == mined.fell_back.sum()
    assert len(mined) == len(mined.anchor) > 200


@pytest.mark.slow
@pytest.mark.parametrize("tries", [0, 2, 64])
@pytest.mark.parametrize("by_class", [False, True])
def test_draws_are_uniform(tries, by_class, monkeypatch):
    """One anchor repeated: each positive and each passing negative as often as the others, by rejection and search."""
    monkeypatch.setattr(compiled, "TRIES", tries)
    b, b_keys = faces(300, 2)
    labels = np.random.default_rng(4).integers(0, 3, 300)
    repeats, tau, row = 20000, 0.8, 45  # one of several equal rows
    a, a_keys = np.repeat(b[row : row + 1], repeats, axis=0), np.repeat(b_keys[row], repeats)
    exclude = (np.full(repeats, 1), labels) if by_class else None
    mined = mine_triplets(a, a_keys, b, b_keys, tau_n=tau, seed=1, exclude=exclude)
    similar = table(b[row : row + 1], b, "cosine")[0]
    passing = (b_keys != b_keys[row]) & (similar > tau) & ((labels != 1) | (not by_class))
    for drawn, pool in ((mined.positive, b_keys == b_keys[row]), (mined.negative, passing)):
        seen = np.bincount(drawn, minlength=300)
        assert not seen[~pool].any()
        expected = repeats / pool.sum()
        chi = ((seen[pool] - expected) ** 2 / expected).sum()
        freedom = pool.sum() - 1
        assert freedom > 2
        assert chi < freedom + 6 * np.sqrt(2 * freedom)


def test_all_zero_anchors_spread_over_what_is_equally_far():
    (b, b_keys), zero = faces(300, 2), np.zeros((5000, 9))
    mined = mine_triplets(zero, code_keys(pack_codes(zero)), b, b_keys)
    assert mined.fell_back.all()
    others = np.flatnonzero(b_keys != 0)
    assert set(mined.negative) == set(others)


def test_seed_decides_and_threads_do_not():
    (a, a_keys), (b, b_keys) = faces(2000, 1), faces(2000, 2)
    threads = numba.get_num_threads()

    def mine(count, seed):
        numba.set_num_threads(count)
        try:
            mined = mine_triplets(a, a_keys, b, b_keys, tau_n=0.95, seed=seed)
        finally:
            numba.set_num_threads(threads)
        return np.stack([mined.anchor, mined.positive, mined.negative])

    one = mine(1, 7)
    assert np.array_equal(one, mine(threads, 7))
    other = mine(1, 8)
    assert (one[1] != other[1]).mean() > 0.5
    assert (one[2] != other[2]).mean() > 0.5
    assert np.array_equal(mine(1, -1), mine(1, 2**64 - 1))


def test_one_code_leaves_no_negative_and_no_common_code_no_positive():
    scores = np.full((5, 4), 0.2)
    keys = code_keys(pack_codes(scores))
    mined = mine_triplets(scores, keys, scores, keys)
    assert (len(mined), mined.without_positive, mined.without_negative) == (0, 0, 5)
    mined = mine_triplets(scores, keys, 1 - scores, code_keys(pack_codes(1 - scores)))
    assert (len(mined), mined.without_positive, mined.without_negative) == (0, 5, 0)
    mined = mine_triplets(scores, keys, scores[:0], keys[:0])
    assert (len(mined), mined.without_positive) == (0, 5)
    assert len(mine_triplets(scores[:0], keys[:0], scores, keys)) == 0


def test_many_equal_rows_and_many_codes():
    """Leaves that never split, and codes that all differ."""
    rng = np.random.default_rng(0)
    b = np.concatenate(
        [np.full((500, 20), 0.3), np.tile(np.r_[0.6, np.full(19, 0.3)], (400, 1)), rng.random((700, 20))]
    )
    keys = code_keys(pack_codes(b))
    mined = mine_triplets(b, keys, b, keys, tau_n=0.99999, similarity="one_minus_l1", seed=3)
    of_first = np.flatnonzero(mined.anchor < 500)
    assert len(of_first) == 500
    assert set(mined.negative[of_first]) <= set(range(500, 900))
    assert len(set(mined.negative[of_first])) > 200


def test_similarity_and_draws():
    a, b = faces(50, 1)[0], faces(50, 2)[0]
    for name in ("cosine", "one_minus_l1"):
        np.testing.assert_allclose(au_similarity(a, b, name), np.diag(table(a, b, name)), atol=1e-6)
    drawn = draw_below(3, np.array([0, 1, 5, 2**32 - 1]))
    assert drawn[0] == -1
    assert drawn[1] == 0
    assert 0 <= drawn[2] < 5
    counts = np.bincount(draw_below(0, np.full(60000, 3)))
    assert abs(counts - 20000).max() < 800
    assert not np.array_equal(draw_below(0, np.full(9, 100)), draw_below(0, np.full(9, 100), stream=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor_scores": np.full((3, 4), np.nan)}, "anchor_scores has NaN in 3 of 3 rows"),
        ({"other_scores": np.full((3, 4), 1.5)}, r"other_scores must lie in \[0,1\]"),
        ({"other_scores": np.zeros(3)}, r"\[rows,A\]"),
        ({"other_scores": np.zeros((3, 5))}, "4 action units, the other domain 5"),
        ({"anchor_keys": np.zeros(2, np.uint64)}, "3 rows, anchor_keys 2"),
        ({"other_keys": np.zeros(3)}, "uint64"),
        ({"similarity": "euclid"}, "cosine, one_minus_l1"),
        ({"tau_n": float("nan")}, "tau_n must be finite"),
        ({"exclude": (np.zeros(3, int), np.zeros(4, int))}, r"others' labels to exclude must be int \[3\]"),
    ],
)
def test_bad_input_is_named(change, message):
    scores, keys = np.zeros((3, 4)), np.zeros(3, np.uint64)
    good = {"anchor_scores": scores, "anchor_keys": keys, "other_scores": scores, "other_keys": keys}
    with pytest.raises(ValueError, match=message):
        mine_triplets(**{**good, **change})
    with pytest.raises(ValueError, match="shapes"):
        au_similarity(scores, scores[:2])


def test_whole_groups_are_weighed_by_their_rows(monkeypatch):
    monkeypatch.setattr(compiled, "TRIES", 0)
    rng = np.random.default_rng(0)
    equal, spread = np.tile([0.9, 0.9, 0.1, 0.6], (500, 1)), np.tile([0.9, 0.9, 0.6, 0.1], (100, 1))
    b = np.concatenate([equal, spread + rng.uniform(0, 0.05, (100, 4)), [[0.9, 0.9, 0.1, 0.1]]])
    a = np.tile(b[-1:], (6000, 1))
    mined = mine_triplets(a, code_keys(pack_codes(a)), b, code_keys(pack_codes(b)), tau_n=0.5)
    assert abs((mined.negative < 500).mean() - 500 / 600) < 0.02


def test_rows_of_the_anchors_code_and_class_are_left_out_once():
    a, b = np.array([[0.9, 0.1]]), np.array([[0.9, 0.1], [0.9, 0.6]])
    mined = mine_triplets(a, code_keys(pack_codes(a)), b, code_keys(pack_codes(b)), exclude=([1], [1, 0]))
    assert mined.negative.tolist() == [1]


@pytest.mark.slow
def test_torch_keeps_its_number_of_threads():
    code = (
        "import torch, numpy as np; from fercore.retrieval import mine_triplets;"
        "s = np.random.default_rng(0).random((50, 3), dtype=np.float32);"
        "k = (s > 0.5) @ np.array([1, 2, 4], np.uint64); mine_triplets(s, k, s, k); print(torch.get_num_threads())"
    )
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
    assert done.stdout.split() == ["1"]
