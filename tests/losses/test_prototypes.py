"""Prototype losses, class weights and adaptive thresholds against literal NumPy, edge cases included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore.losses import adaptive_thresholds, class_weights, prototype_ce, prototype_domain_scores

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
SLOPE = {"rtol": 1e-5, "atol": 1e-8}
LABELS = np.array([0, 2, 1, 2, 0])
WEIGHTS = np.array([0.3, 0.9, 0.6])
MASK = np.array([True, False, True, True, False])


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array, *, grad=False):
    return torch.tensor(array, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("mask", [None, MASK, ~MASK, MASK & False], ids=["all", "some", "others", "none"])
def test_prototype_ce_is_equations_2_3_and_8(pocan, weights, mask):
    z, protos = draw(1, 5, 4), draw(2, 3, 4)
    z[0] = 0.0
    leaf, rows = tensor(z, grad=True), tensor(protos, grad=True)
    given = None if weights is None else tensor(weights)
    value = prototype_ce(leaf, rows, torch.tensor(LABELS), given, None if mask is None else torch.tensor(mask))
    value.backward()

    def literal(z, protos):
        return pocan.eq2(z, protos, LABELS, weights, mask)

    np.testing.assert_allclose(value.item(), literal(z, protos), **CLOSE)
    np.testing.assert_allclose(leaf.grad, pocan.gradient(lambda v: literal(v, protos), z), **SLOPE)
    np.testing.assert_allclose(rows.grad, pocan.gradient(lambda v: literal(z, v), protos), **SLOPE)


def test_an_empty_batch_costs_nothing():
    rows = torch.randn(3, 4, requires_grad=True)
    value = prototype_ce(torch.randn(0, 4), rows, torch.zeros(0, dtype=torch.int64))
    value.backward()
    assert value.item() == 0.0
    assert (rows.grad == 0).all()


def test_labels_outside_the_mask_are_not_looked_at():
    z, protos, mask = tensor(draw(1, 5, 4)), tensor(draw(2, 3, 4)), torch.tensor(MASK)
    unknown = torch.tensor(LABELS).masked_fill(~mask, -1)
    assert prototype_ce(z, protos, unknown, None, mask) == prototype_ce(z, protos, torch.tensor(LABELS), None, mask)


def test_domain_scores_are_those_of_equations_10_and_11(pocan):
    z_s, z_t, source, target = draw(1, 4, 3), draw(2, 5, 3), draw(3, 3, 3), draw(4, 3, 3)
    z_s[1] = 0.0
    leaves = [tensor(a, grad=True) for a in (z_s, z_t, source, target)]
    of_source, of_target = (prototype_domain_scores(z, *leaves[2:]) for z in leaves[:2])
    for number, z in enumerate(z_s):
        alpha = pocan.alphas(z, source, target)
        np.testing.assert_allclose([side[number].item() for side in of_source], np.log(alpha), **CLOSE)
    for found, literal in (
        (-of_source[0].mean() - of_target[1].mean(), pocan.eq10),
        (-of_target[0].mean() - of_source[1].mean(), pocan.eq11),
    ):
        arrays = [z_s, z_t, source, target]
        np.testing.assert_allclose(found.item(), literal(*arrays), **CLOSE)
        for place, slope in enumerate(torch.autograd.grad(found, leaves, retain_graph=True)):

            def moved(v, place=place, literal=literal, arrays=tuple(arrays)):
                return literal(*[v if i == place else a for i, a in enumerate(arrays)])

            np.testing.assert_allclose(slope, pocan.gradient(moved, arrays[place]), **SLOPE)


def test_a_score_of_zero_has_a_finite_log():
    z = torch.tensor([[100.0, 0.0]], requires_grad=True)
    rows = torch.tensor([[-10.0, 0.0]]), torch.tensor([[10.0, 0.0]])
    log_s, log_t = prototype_domain_scores(z, *rows)
    assert torch.exp(log_s).item() == 0.0
    torch.testing.assert_close(log_s, torch.tensor([-2000.0]))
    torch.testing.assert_close(log_t, torch.tensor([0.0]))
    log_s.sum().backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("counts", [[5, 1, 0], [0, 0, 0], [7, 0, 0], [3, 3, 3]])
def test_class_weights_are_equation_13(pocan, counts):
    found = class_weights(torch.tensor(counts), "one_minus_sq")
    np.testing.assert_allclose(found, pocan.eq13(counts), rtol=1e-6)
    share = np.array(counts) / max(1, sum(counts))
    for exponent in (1.0, 1.5, 2):
        np.testing.assert_allclose(class_weights(torch.tensor(counts), exponent), (1 - share) ** exponent, rtol=1e-6)
    assert (class_weights(torch.tensor(counts), "none") == 1).all()
    exact = class_weights(torch.tensor(counts, dtype=torch.float64), "one_minus_sq")
    np.testing.assert_allclose(exact, pocan.eq13(counts), rtol=1e-14)


@pytest.mark.parametrize("beta", [0.5, 2.0, 4.0])
def test_thresholds_are_equation_14(pocan, beta):
    confidence = np.array([0.9, 0.5, 0.7, 0.3, 0.8, 0.4])
    predicted = np.array([0, 0, 0, 1, 3, 3])
    found = adaptive_thresholds(tensor(confidence), torch.tensor(predicted), 4, beta)
    np.testing.assert_allclose(found, pocan.eq14(confidence, predicted, 4, beta), rtol=1e-14)
    assert found[2] == torch.inf
    assert found[1] == 0.3


def test_a_larger_beta_is_stricter():
    confidence, predicted = torch.rand(50), torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(0))
    lax, strict = (adaptive_thresholds(confidence, predicted, 3, beta) for beta in (0.5, 4.0))
    assert (strict > lax).all()


def test_nothing_predicted_trusts_nothing():
    assert (adaptive_thresholds(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 3, 2.0) == torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_confidences_are_all_trusted_whatever_the_rounding(dtype):
    for n in (1, 2, 3, 7, 49):
        for value in (0.1, 1 / 3, 0.7, 1.0):
            confidence = torch.full((n,), value, dtype=dtype)
            found = adaptive_thresholds(confidence, torch.zeros(n, dtype=torch.int64), 1, 2.0)
            assert found.dtype == dtype
            assert (confidence >= found[0]).all()


def test_thresholds_carry_no_gradient():
    confidence = torch.rand(4, requires_grad=True)
    assert not adaptive_thresholds(confidence, torch.tensor([0, 0, 1, 1]), 2, 2.0).requires_grad
