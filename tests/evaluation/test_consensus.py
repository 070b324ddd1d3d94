"""Consensus-driven active selection against a literal version, and what few labels are worth by it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta

from fercore.evaluation.consensus import Consensus, best_of, bits, choose


def pool(rng, truth, rights, k=4):
    """Predictions of models with given chances of being right, surer where they are."""
    probs = []
    for right in rights:
        seen = np.where(rng.random(len(truth)) < right, truth, (truth + rng.integers(1, k, len(truth))) % k)
        probs.append(rng.dirichlet(np.ones(k), len(truth)) * 0.5 + 0.5 * np.eye(k)[seen])
    return np.array(probs)


def literal_counts(probs):
    """Begin with 2 (1 or 1/(K-1) + 0.1 soft confusion with the ensemble), by loops."""
    m, n, k = probs.shape
    counts = np.zeros((m, k, k))
    for h in range(m):
        for c in range(k):
            rows = [probs[h, i] for i in range(n) if probs[:, i].mean(axis=0).argmax() == c]
            total = np.sum(rows, axis=0) if rows else np.zeros(k)
            for j in range(k):
                base = 1.0 if c == j else 1 / (k - 1)
                counts[h, c, j] = 2 * (base + 0.1 * total[j] / max(total.sum(), 1e-6))
    return counts


def literal_information(counts, probs, image):
    """Return the expected fall of the entropy of who is best when row c alone learns the imagined label c."""
    m, n, k = probs.shape
    joint = np.array([[sum(counts[h, c] @ probs[h, i] for h in range(m)) for c in range(k)] for i in range(n)])
    beliefs = joint / joint.sum(axis=1, keepdims=True)
    shares = beliefs.mean(axis=0)

    def row(c, added):
        right = np.array([counts[h, c, c] for h in range(m)])
        wrong = np.array([counts[h, c].sum() - counts[h, c, c] for h in range(m)])
        votes = np.array([probs[h, image].argmax() == c for h in range(m)])
        return best_of((right + added * votes)[None], (wrong + added * ~votes)[None])[0]

    rows = [row(c, 0.0) for c in range(k)]
    before = sum(shares[c] * rows[c] for c in range(k))
    expected = 0.0
    for c in range(k):
        after = before + shares[c] * (row(c, 1.0) - rows[c])
        expected += beliefs[image, c] * -(after * np.log2(after)).sum()
    return -(before * np.log2(before)).sum() - expected


def test_the_best_of_beta_variables_is_the_integral():
    right, wrong = np.array([[3.0, 5.0, 2.0]]), np.array([[2.0, 4.0, 2.5]])

    def share(h):
        others = [j for j in range(3) if j != h]
        return quad(
            lambda x: (
                beta.pdf(x, right[0, h], wrong[0, h]) * np.prod([beta.cdf(x, right[0, j], wrong[0, j]) for j in others])
            ),
            0,
            1,
        )[0]

    np.testing.assert_allclose(best_of(right, wrong)[0], [share(h) for h in range(3)], atol=2e-3)


def test_counts_and_information_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    probs = pool(rng, rng.integers(0, 4, 12), (0.8, 0.5, 0.4))
    consensus = Consensus(probs)
    np.testing.assert_allclose(consensus.counts, literal_counts(probs), rtol=1e-12)
    told = consensus.information(np.arange(12))
    np.testing.assert_allclose(told, [literal_information(consensus.counts, probs, i) for i in range(12)], atol=1e-10)
    consensus.learn(3, 2)
    expected = literal_counts(probs)
    for h in range(3):
        expected[h, 2, probs[h, 3].argmax()] += 0.01
    np.testing.assert_allclose(consensus.counts, expected, rtol=1e-12)


def test_entropy_is_in_bits():
    np.testing.assert_allclose(bits(np.array([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])), [1.0, 0.0], atol=1e-9)


def test_images_on_which_all_agree_are_left_out_and_none_comes_twice():
    rng = np.random.default_rng(1)
    probs = pool(rng, rng.integers(0, 4, 60), (0.9, 0.8, 0.7))
    votes = probs.argmax(axis=2)
    apart = np.flatnonzero((votes != votes[0]).any(axis=0))
    chosen = choose(probs, 1000, 0, {})
    assert sorted(chosen) == sorted(apart)
    known = {chosen[0]: 1, chosen[1]: 4}  # 4 = none of the classes
    again = choose(probs, 1000, 0, known)
    assert sorted(again) == sorted(set(apart) - set(known))
    assert choose(probs, 5, 0, {}) == chosen[:5]


@pytest.mark.parametrize("seed", range(3))
def test_labels_find_the_better_one_where_the_consensus_is_wrong(seed):
    """Two models that err alike elect each other; labels of what CODA chooses speak for the third."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 300)
    first, good = pool(rng, truth, (0.45, 0.9))
    probs = np.array([first, first * 0.9 + 0.1 * rng.dirichlet(np.ones(4), 300), good])
    before = Consensus(probs)
    assert before.chances().argmax() != 2
    known: dict[int, int] = {}
    after = Consensus(probs)
    for _ in range(40):
        image = choose(probs, 1, 0, known)[0]
        known[image] = int(truth[image])
        after.learn(image, known[image])
    assert after.chances()[2] > before.chances()[2]
    assert after.chances().sum() == pytest.approx(1)
