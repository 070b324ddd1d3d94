"""InfoNCE and SupCon against literal NumPy and against pytorch-metric-learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss

from fercore.losses import info_nce, supcon, unit

CLOSE = {"rtol": 1e-10, "atol": 1e-12}
SLOPE = {"rtol": 1e-5, "atol": 1e-8}


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array, *, grad=False):
    return torch.tensor(array, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("tau", [0.1, 0.7])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_info_nce_is_equation_1(pocan, tau, n):
    z1, z2 = draw(1, n, 3), draw(2, n, 3)
    leaf = tensor(z1, grad=True)
    value = info_nce(leaf, tensor(z2), tau)
    value.backward()

    def literal(z):
        return pocan.eq1(list(zip(z, z2, strict=True)), tau)

    np.testing.assert_allclose(value.item(), literal(z1), **CLOSE)
    np.testing.assert_allclose(leaf.grad, pocan.gradient(literal, z1), **SLOPE)


@pytest.mark.parametrize("tau", [0.1, 0.7])
@pytest.mark.parametrize(
    ("labels", "views"),
    [([0, 1, 0, 2], 2), ([0, 1, 0, 2], 1), ([1, 1, 1], 2), ([0, 1, 2], 3), ([0, -1, -1, 0], 2), ([2], 2)],
    ids=["two views", "one view, lone anchors", "single class", "no shared class", "unknown labels", "one sample"],
)
def test_supcon_is_equation_4(pocan, tau, labels, views):
    z = draw(3, len(labels), views, 3)
    leaf = tensor(z, grad=True)
    value = supcon(leaf, torch.tensor(labels), tau)
    value.backward()
    np.testing.assert_allclose(value.item(), pocan.eq4(z, labels, tau), **CLOSE)
    np.testing.assert_allclose(leaf.grad, pocan.gradient(lambda v: pocan.eq4(v, labels, tau), z), **SLOPE)


def test_zero_vectors_have_the_literal_value_and_pass_no_gradient(pocan):
    z = draw(4, 3, 2, 3)
    z[1, 0] = 0.0
    leaf = tensor(z, grad=True)
    value = supcon(leaf, torch.tensor([0, 0, 1]), 0.5)
    value.backward()
    np.testing.assert_allclose(value.item(), pocan.eq4(z, [0, 0, 1], 0.5), **CLOSE)
    assert (leaf.grad[1, 0] == 0).all()
    rest = np.ones((3, 2), dtype=bool)
    rest[1, 0] = False
    literal = pocan.gradient(lambda v: pocan.eq4(np.where(rest[..., None], v, 0.0), [0, 0, 1], 0.5), z)
    np.testing.assert_allclose(leaf.grad, literal, **SLOPE)
    np.testing.assert_allclose(info_nce(tensor(z[:, 0]), tensor(z[:, 1]), 0.5).item(), pocan.eq1(z, 0.5), **CLOSE)


def test_unit_divides_short_vectors_by_the_floor():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-13, 0.0]], dtype=torch.float64)
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0.0, 0.0], [0.3, 0.0]], rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 1, 3), (3, 1, 3)], ids=["empty", "one view alone", "no positive"])
def test_without_a_positive_the_value_is_zero_and_connected(shape):
    leaf = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    value = supcon(leaf, torch.arange(shape[0]), 0.1)
    value.backward()
    assert value.item() == 0.0
    assert (leaf.grad == 0).all()


def test_an_empty_batch_has_no_info_nce():
    leaf = torch.randn(0, 3, requires_grad=True)
    assert info_nce(leaf, torch.randn(0, 3), 0.7).item() == 0.0


def test_views_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        info_nce(torch.randn(3, 2), torch.randn(2, 2), 0.7)


@pytest.mark.parametrize("tau", [0.07, 0.7])
def test_both_are_those_of_pytorch_metric_learning(tau):
    z, labels = tensor(draw(5, 6, 2, 4)), torch.tensor([0, 1, 0, 2, 1, 0])
    flat, names = z.flatten(0, 1), labels.repeat_interleave(2)
    torch.testing.assert_close(supcon(z, labels, tau), SupConLoss(temperature=tau)(flat, names))
    pairs = torch.arange(6).repeat_interleave(2)
    torch.testing.assert_close(info_nce(z[:, 0], z[:, 1], tau), NTXentLoss(temperature=tau)(flat, pairs))


def test_low_temperatures_overflow_nothing():
    z = torch.randn(8, 2, 4, requires_grad=True)
    value = supcon(z, torch.arange(8) % 3, 1e-3)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()
