"""Mutual prediction consistency: values and gradients against the reference and the literal definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore import ops
from fercore.ops import reference
from tests.ops import naive
from tests.ops.cases import distance

SHAPES = [(10, 128, 7), (1, 5, 8), (3, 33, 11), (2, 3, 1), (2, 2, 3), (4, 1, 7), (0, 4, 3), (2, 0, 3)]


def views(shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("form", ["abs", "offdiag"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_the_reference(shape, form, dtype):
    p, q = (t.requires_grad_() for t in views(shape, dtype))
    actual = ops.mpc_consistency(p, q, form=form)
    wide = [t.detach().double().requires_grad_() for t in (p, q)]
    expected = reference.mpc(*wide, form == "offdiag")
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert actual.shape == expected.shape
    assert distance(actual.detach(), expected.detach()) <= tolerance
    weights = torch.linspace(-1, 2, shape[0], dtype=torch.float64)
    grads = torch.autograd.grad(actual, (p, q), weights.to(dtype))
    for grad, exact in zip(grads, torch.autograd.grad(expected, wide, weights), strict=True):
        assert torch.allclose(grad.double(), exact, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["abs", "offdiag"])
def test_values_equal_the_literal_definition(form):
    p, q = views((5, 20, 7))
    for g in range(5):
        np.testing.assert_allclose(
            ops.mpc_consistency(p, q, form=form)[g], naive.mpc(p[g].numpy(), q[g].numpy(), form), rtol=1e-12
        )


def test_the_released_form_is_half_of_the_paper_on_probabilities():
    p, q = views((3, 16, 7))
    assert torch.allclose(ops.mpc_consistency(p, q), 2 * ops.mpc_consistency(p, q, form="offdiag"))


def test_agreement_costs_nothing():
    p = torch.eye(7, dtype=torch.float64)
    assert float(ops.mpc_consistency(p, p)) == 0


def test_two_dimensional_and_non_contiguous_inputs():
    p, q = views((2, 16, 7))
    turned = [t.mT.contiguous().mT for t in (p, q)]
    assert torch.equal(ops.mpc_consistency(*turned), ops.mpc_consistency(p, q))
    assert torch.equal(ops.mpc_consistency(p[0], q[0]), ops.mpc_consistency(p, q)[0])


def test_a_row_sum_of_zero_gives_no_nan():
    p = torch.randn(2, 4, 3, dtype=torch.float64)
    p[0, :, 1] = 0
    p, q = p.requires_grad_(), torch.randn(2, 4, 3, dtype=torch.float64)
    value = ops.mpc_consistency(p, q)
    value.sum().backward()
    assert value.isfinite().all()
    assert p.grad.isfinite().all()
    assert torch.allclose(value, reference.mpc(p, q, False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_compute_in_single(dtype):
    p, q = views((3, 16, 7), dtype)
    value = ops.mpc_consistency(p, q)
    assert value.dtype == torch.float32
    assert distance(value, reference.mpc(p.double(), q.double(), False)) <= 1e-5


def test_what_does_not_fit_is_refused():
    p, q = views((2, 16, 7))
    with pytest.raises(ops.OpArgumentError, match="must both be"):
        ops.mpc_consistency(p, q[:, :5])
    with pytest.raises(ops.OpArgumentError, match="form"):
        ops.mpc_consistency(p, q, form="half")
    with pytest.raises(ops.OpArgumentError, match="floating point"):
        ops.mpc_consistency(p.long(), q.long())
