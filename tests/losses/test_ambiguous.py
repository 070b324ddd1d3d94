"""Candidate classes and the consistency they take part in, against NumPy written from the paper (LEAF Eqs 6-14)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from fercore.losses import ambiguous_consistency, concave_weights, official_positive_set, positive_set


@pytest.fixture(scope="module")
def leaf():
    path = Path(__file__).parents[1] / "plugins" / "leaf" / "paper.py"
    spec = importlib.util.spec_from_file_location("leaf_paper", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distributions(classes, count=150, seed=0):
    """Flat, peaked and coarse ones; the last have many equal entries, and their sums are exact."""
    rng = np.random.default_rng(seed)
    some = [rng.dirichlet(np.full(classes, a), count // 3) for a in (0.2, 1.0)]
    coarse = rng.multinomial(16, np.full(classes, 1 / classes), count // 3) / 16
    return np.concatenate([*some, coarse])


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.95])
def test_the_positive_set_is_the_smallest_that_reaches_the_threshold(leaf, classes, threshold):
    probs = distributions(classes)
    found = positive_set(torch.tensor(probs), threshold).numpy()
    for p, row in zip(probs, found, strict=True):
        sets = leaf.smallest_sets(p, threshold)
        chosen = set(np.flatnonzero(row).tolist())
        assert len(chosen) == len(sets[0])
        assert sum(p[j] for j in chosen) == pytest.approx(max(sum(p[j] for j in s) for s in sets), abs=1e-15)
        assert row.tolist() == leaf.eq6_8(p, threshold).tolist()


@pytest.mark.parametrize("classes", [2, 3, 4, 7, 8])
def test_the_official_set_has_one_class_fewer_and_at_most_three(leaf, classes):
    probs = distributions(classes, seed=1)
    found = official_positive_set(torch.tensor(probs), 0.9).numpy()
    for p, row in zip(probs, found, strict=True):
        needed = len(leaf.smallest_sets(p, 0.9)[0])
        assert row.sum() == min(max(needed - 1, 1), 3)
        assert row.tolist() == leaf.official_candidates(p, 0.9)[0].tolist()
    assert {1, min(3, classes - 1)} <= set(found.sum(1).tolist())


def test_equal_probabilities_go_to_the_lower_index():
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]])
    assert positive_set(probs, 0.5).tolist() == [[True, True, False, False], [False, True, False, True]]
    assert positive_set(probs, 0.45).tolist() == [[True, True, False, False], [False, True, False, True]]
    assert positive_set(torch.full((1, 3), 1 / 3), 0.3).tolist() == [[True, False, False]]


@pytest.mark.parametrize("rows", [[[0.1] * 8 + [0.1999]], [[0.5, 0.3, 0.1999999]]])
def test_where_rounding_never_reaches_the_threshold_every_class_is_a_candidate(rows):
    assert positive_set(torch.tensor(rows), 1.0).all()


def test_a_sure_prediction_has_one_candidate_under_both_rules():
    probs = torch.tensor([[0.0, 1.0, 0.0], [0.02, 0.03, 0.95]])
    expected = [[False, True, False], [False, False, True]]
    assert positive_set(probs, 0.9).tolist() == expected
    assert official_positive_set(probs, 0.9).tolist() == expected
    assert positive_set(probs[:1], 1.0).tolist() == expected[:1]


def test_candidates_carry_no_gradient():
    logits = torch.randn(3, 5, requires_grad=True)
    positive = positive_set(logits.softmax(-1), 0.9)
    assert positive.dtype == torch.bool
    assert not concave_weights(logits.softmax(-1), positive).requires_grad


@pytest.mark.parametrize("margin", [0.0, 0.7])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equation_14_value_and_gradient(leaf, margin, classes):
    rng = np.random.default_rng(classes)
    s = rng.normal(size=(12, classes)) * 3
    positive = rng.random((12, classes)) < 0.5
    positive[0], positive[1] = True, False
    leaf_s = torch.tensor(s, requires_grad=True)
    found = ambiguous_consistency(leaf_s, torch.tensor(positive), margin)
    expected = [leaf.eq14(row, p, margin) for row, p in zip(s, positive, strict=True)]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12, atol=1e-14)
    found.sum().backward()
    slope = leaf.gradient(lambda z: sum(leaf.eq14(r, p, margin) for r, p in zip(z, positive, strict=True)), s)
    np.testing.assert_allclose(leaf_s.grad.numpy(), slope, rtol=1e-6, atol=1e-8)


def test_it_lies_above_the_hinge_and_meets_it_far_away(leaf):
    rng = np.random.default_rng(3)
    s = rng.normal(size=(40, 6))
    positive = leaf.eq6_8
    sets = np.array([positive(p, 0.7) for p in leaf.softmax(rng.normal(size=(40, 6)))])
    near = ambiguous_consistency(torch.tensor(s), torch.tensor(sets)).numpy()
    far = ambiguous_consistency(torch.tensor(s * 1e3), torch.tensor(sets)).numpy() / 1e3
    hinge = np.array([leaf.eq10(row, p) for row, p in zip(s, sets, strict=True)])
    assert (near >= hinge - 1e-12).all()
    np.testing.assert_allclose(far, hinge, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["one", "rest", "half", "all", "none"])
def test_extreme_scores_are_finite_in_value_and_gradient(dtype, pattern):
    signs = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    scores = (signs * 1e4).to(dtype).requires_grad_()
    masks = {"one": [1, 0, 0, 0], "rest": [0, 1, 1, 1], "half": [1, 1, 0, 0], "all": [1] * 4, "none": [0] * 4}
    value = ambiguous_consistency(scores, torch.tensor(masks[pattern], dtype=torch.bool).expand(4, 4), 0.5)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(scores.grad).all()
    if pattern == "rest":
        assert value[0].item() == pytest.approx(2e4, rel=1e-2)
        assert scores.grad[0].abs().sum().item() == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize("full", [True, False])
def test_without_two_sides_the_loss_is_zero_and_pulls_nowhere(full):
    scores = torch.randn(3, 5, requires_grad=True)
    value = ambiguous_consistency(scores, torch.full((3, 5), full), 2.0)
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0, 0.0]
    assert scores.grad.abs().sum() == 0


def test_a_sample_without_negatives_leaves_the_others_alone():
    scores = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, False, False, True]])
    ambiguous_consistency(scores, mask).sum().backward()
    together = scores.grad.clone()
    scores.grad = None
    ambiguous_consistency(scores[1:], mask[1:]).sum().backward()
    torch.testing.assert_close(together, scores.grad)
    assert together[1].abs().sum() > 0


def test_gradcheck():
    scores = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1] * 5], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: ambiguous_consistency(s, mask, 0.3), (scores,))


@pytest.mark.parametrize("classes", [1, 2, 4, 7])
def test_concave_weights(leaf, classes):
    probs = distributions(classes, seed=2)
    positive = official_positive_set(torch.tensor(probs), 0.9)
    found = concave_weights(torch.tensor(probs), positive).numpy()
    expected = [leaf.official_weight(p, int(m)) for p, m in zip(probs, positive.sum(1), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()
