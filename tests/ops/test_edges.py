"""What is no number, lies elsewhere, or was made by somebody else: shown or refused, never hidden."""

from __future__ import annotations

import pytest
import torch

from fercore import ops
from fercore.ops import dispatch, reference
from fercore.ops.checks import OpArgumentError
from tests.ops.cases import CASES

FORMS = {"compiled": dispatch.alignment, "reference": reference.alignment}
FEATURES = {"dense": "plain", "streamed": "streamed"}


@pytest.fixture(params=FORMS)
def align(request):
    assert dispatch.compiled("cpu")
    return FORMS[request.param]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30], ids=["nan", "inf", "overflow"])
@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("name", FEATURES.values(), ids=FEATURES)
def test_one_bad_feature_shows(align, name, side, bad):
    x, y, arguments = CASES[name].tensors(torch.float32)
    (x if side == "x" else y)[0, 3, 2] = bad
    x, y = x.requires_grad_(), y.requires_grad_()
    sample, _, _ = align(x, y, *arguments)
    assert sample[0].isnan()
    grad = torch.autograd.grad(sample[0], x if side == "x" else y)[0]
    assert grad[0, 3].isnan().all()


@pytest.mark.parametrize("bandwidth", ["sample", "class"])
def test_a_bandwidth_that_is_no_number_shows(align, bandwidth):
    x, y, arguments = CASES["plain"].tensors(torch.float64)
    at = 6 if bandwidth == "sample" else 7
    shape = (4,) if bandwidth == "sample" else (4, 4, 4)
    given = torch.full(shape, float("nan"), dtype=torch.float64)
    sample, value, valid = align(x, y, *arguments[:at], given, *arguments[at + 1 :])
    assert (sample if bandwidth == "sample" else value[valid]).isnan().all()


def test_an_infinite_bandwidth_sees_no_distance():
    x, y, arguments = CASES["plain"].tensors(torch.float64)
    infinite = [torch.full(shape, float("inf"), dtype=torch.float64) for shape in ((4,), (4, 4, 4))]
    sample, value, _ = dispatch.alignment(x, y, *arguments[:6], *infinite, *arguments[8:])
    assert sample.abs().max() < 1e-12
    assert value.abs().max() < 1e-12


def test_tensors_elsewhere_are_refused():
    x, w = torch.rand(2, 4, 3), torch.rand(2, 4)
    with pytest.raises(OpArgumentError, match="bandwidth must be on cpu, got meta"):
        ops.weighted_mmd(x, x, w, w, bandwidth=torch.ones(2, device="meta"))
    with pytest.raises(OpArgumentError, match="one number"):
        ops.weighted_mmd(x[0], x[0], w[0], w[0], bandwidth=torch.ones(3))
    with pytest.raises(OpArgumentError, match="finite"):
        ops.weighted_mmd(x, x, w, w, multiplier=float("inf"))


def test_backward_ops_refuse_what_the_forward_did_not_give():
    p = torch.rand(2, 5, 3, dtype=torch.float64).softmax(-1)
    _, joint = torch.ops.fercore.mpc(p, p, False)
    with pytest.raises(RuntimeError, match="grad has the wrong type"):
        torch.ops.fercore.mpc_backward(torch.ones(2), p, p, joint, False)
    with pytest.raises(RuntimeError, match="joint has the wrong type"):
        torch.ops.fercore.mpc_backward(torch.ones(2, dtype=p.dtype), p, p, joint.float(), False)
    x, y, arguments = CASES["plain"].tensors(torch.float64)
    sample, value, _, bands, memo = torch.ops.fercore.mmd(x, y, *arguments, True)
    given = (x, y, *arguments[:6])
    with pytest.raises(RuntimeError, match="grad_sample has the wrong type"):
        torch.ops.fercore.mmd_backward(sample.float(), value, *given, bands, memo, *arguments[8:])
    with pytest.raises(RuntimeError, match="grad_value must have"):
        torch.ops.fercore.mmd_backward(sample, value[:1], *given, bands, memo, *arguments[8:])
    with pytest.raises(RuntimeError, match="keep"):
        torch.ops.fercore.mmd_backward(sample, value, *given, bands, memo[:1], *arguments[8:])
