"""MMD ops: values and gradients against the reference and the literal definition, and the edges of their inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore import ops
from fercore.ops import dispatch, reference
from tests.ops import naive
from tests.ops.cases import CASES, GRADIENT, VALUE, Case, differentiate, distance, widen

DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=["f64", "f32"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_reference(name, dtype):
    x, y, arguments = CASES[name].tensors(dtype)
    actual = differentiate(dispatch.alignment, x, y, arguments)
    expected = differentiate(reference.alignment, x.double(), y.double(), widen(arguments))
    assert torch.equal(actual[2], expected[2])
    assert [t.shape for t in actual] == [t.shape for t in expected]
    assert all(t.dtype == dtype for t in (actual[0], actual[1], actual[3], actual[4]))
    assert distance(actual[0], expected[0]) <= VALUE[dtype]
    assert distance(actual[1], expected[1]) <= VALUE[dtype]
    assert distance(actual[3], expected[3]) <= GRADIENT[dtype]
    assert distance(actual[4], expected[4]) <= GRADIENT[dtype]


@pytest.mark.parametrize("form", ["compiled", "reference"])
@pytest.mark.parametrize("name", ["plain", "duplicates", "empty_classes", "single_rows", "multiplier"])
def test_values_equal_the_literal_definition(name, form):
    case = CASES[name]
    x, y, arguments = case.tensors(torch.float64)
    wx, wy, cx, cy, x_labels, y_labels = arguments[:6]
    options = {"num_kernels": case.kernels, "multiplier": case.multiplier}
    function = dispatch.alignment if form == "compiled" else reference.alignment
    sample, value, valid = function(x, y, *arguments)
    for g in range(case.groups):
        t = g % case.targets
        rows = x[g].numpy(), y[t].numpy()
        np.testing.assert_allclose(
            sample[g], naive.mmd(*rows, wx[g].numpy(), wy[t].numpy(), **options), rtol=1e-11, atol=1e-13
        )
        labels = x_labels[g].numpy(), y_labels[t].numpy()
        expected, present = naive.class_mmd(*rows, *labels, case.classes, cx[g].numpy(), cy[t].numpy(), **options)
        np.testing.assert_array_equal(valid[g], present)
        np.testing.assert_allclose(value[g], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("sample_only", [True, False], ids=["sample", "class"])
@pytest.mark.parametrize("name", ["plain", "streamed"])
def test_one_level_alone(name, sample_only):
    x, y, arguments = CASES[name].tensors(torch.float64)
    wx, wy, cx, cy, x_labels, y_labels = arguments[:6]
    k = CASES[name].classes
    both = reference.alignment(x, y, *arguments)
    if sample_only:
        actual = differentiate(dispatch.alignment, x, y, (wx, wy, *[None] * 6, 0, 5, 2.0))
        expected = differentiate(reference.alignment, x, y, (wx, wy, *[None] * 6, 0, 5, 2.0))
        assert distance(ops.weighted_mmd(x, y, wx, wy), both.sample) <= 1e-12
    else:
        rest = (None, None, cx, cy, x_labels, y_labels, None, None, k, 5, 2.0)
        actual = differentiate(dispatch.alignment, x, y, rest)
        expected = differentiate(reference.alignment, x, y, rest)
        value, valid = ops.class_mmd(x, y, x_labels, y_labels, k, wx=cx, wy=cy)
        assert distance(value, both.value) <= 1e-12
        assert torch.equal(valid, both.valid)
    assert all(distance(a, e) <= 1e-12 for a, e in zip(actual, expected, strict=True))


@pytest.mark.slow
def test_a_large_call_equals_the_reference_in_single_precision():
    x, y, arguments = Case(1, 1, 2048, 2048, 32, 0).tensors(torch.float32)
    rest = (*arguments[:2], *[None] * 6, 0, 5, 2.0)
    actual = differentiate(dispatch.alignment, x, y, rest)
    expected = differentiate(reference.alignment, x.double(), y.double(), widen(rest))
    assert distance(actual[0], expected[0]) <= 1e-5
    assert distance(actual[3], expected[3]) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_compute_in_single(dtype):
    x, y, arguments = CASES["one_group"].tensors(torch.float32)
    x, y = x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()
    wx, wy = arguments[:2]
    value = ops.weighted_mmd(x, y, wx.to(dtype), wy.to(dtype))
    assert value.dtype == torch.float32
    value.sum().backward()
    assert x.grad.dtype == dtype
    exact = ops.weighted_mmd(x.double(), y.double(), wx.to(dtype).double(), wy.to(dtype).double())
    assert distance(value.detach(), exact.detach()) <= 1e-5


def test_two_dimensional_inputs_drop_the_group():
    x, y, arguments = CASES["one_group"].tensors(torch.float64)
    wx, wy, _, _, x_labels, y_labels = arguments[:6]
    assert torch.equal(ops.weighted_mmd(x[0], y[0], wx[0], wy[0]), ops.weighted_mmd(x, y, wx, wy)[0])
    value, valid = ops.class_mmd(x[0], y[0], x_labels[0], y_labels[0], 7)
    expected = ops.class_mmd(x, y, x_labels, y_labels, 7)
    assert torch.equal(value, expected[0][0])
    assert torch.equal(valid, expected[1][0])


def test_non_contiguous_inputs():
    x, y, arguments = CASES["plain"].tensors(torch.float64)
    expected = differentiate(dispatch.alignment, x, y, arguments)
    spread = [torch.stack([t, t], -1)[..., 0] if torch.is_tensor(t) else t for t in (x, y, *arguments)]
    assert not spread[0].is_contiguous()
    actual = differentiate(dispatch.alignment, spread[0], spread[1], spread[2:])
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    shared = y[:1].expand(4, -1, -1)
    same = ops.weighted_mmd(x, shared, arguments[0], arguments[1][:1].expand(4, -1))
    assert torch.equal(same, ops.weighted_mmd(x, y[:1], arguments[0], arguments[1][:1]))


def test_coinciding_rows_have_no_distance_and_no_gradient():
    x = torch.randn(1, 1, 8, dtype=torch.float64).repeat(1, 6, 1).requires_grad_()
    weights = torch.full((1, 6), 1 / 6, dtype=torch.float64)
    value = ops.weighted_mmd(x, x.detach(), weights, weights)
    value.sum().backward()
    assert abs(value.item()) < 1e-12
    assert torch.count_nonzero(x.grad) == 0


def test_a_class_of_zero_weight_is_empty():
    x, y, arguments = CASES["plain"].tensors(torch.float64)
    x_labels, y_labels = arguments[4:6]
    value, valid = ops.class_mmd(x, y, x_labels, y_labels, 4, wx=(x_labels != 1).double())
    assert not valid[:, 1].any()
    assert torch.count_nonzero(value[:, 1]) == 0


def test_target_bandwidth_is_taken_and_clamped():
    x, y, arguments = CASES["plain"].tensors(torch.float64)
    wx, wy = arguments[:2]
    fixed = torch.tensor([3.0, 4.0, 5.0, 0.0], dtype=torch.float64)
    value = ops.weighted_mmd(x, y, wx, wy, bandwidth=fixed)
    for g in range(4):
        expected = naive.mmd(x[g].numpy(), y[g % 2].numpy(), wx[g].numpy(), wy[g % 2].numpy(), float(fixed[g]))
        np.testing.assert_allclose(value[g], expected, rtol=1e-11)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", ["plain", "labels_by_group", "streamed"])
def test_the_number_of_threads_changes_no_bit(name, threads):
    x, y, arguments = CASES[name].tensors(torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = differentiate(dispatch.alignment, x, y, arguments)
        torch.set_num_threads(threads)
        several = differentiate(dispatch.alignment, x, y, arguments)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, several, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (4, 12, 5)}, "same width"),
        ({"x": (3, 12, 6)}, "multiple"),
        ({"wx": (4, 11)}, "wx must be"),
        ({"wy": (3, 9)}, "wy must be"),
        ({"x": (12,)}, r"must be \[G,N,D\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    shapes = {"x": (4, 12, 6), "y": (2, 9, 6), "wx": (4, 12), "wy": (2, 9)} | change
    with pytest.raises(ops.OpArgumentError, match=message):
        ops.weighted_mmd(*(torch.rand(shape) for shape in shapes.values()))


def test_wrong_types_and_kernels_are_refused():
    x, w = torch.rand(3, 4), torch.rand(3)
    labels = torch.zeros(3)
    with pytest.raises(ops.OpArgumentError, match="floating point"):
        ops.weighted_mmd(x.long(), x, w, w)
    with pytest.raises(ops.OpArgumentError, match="integers"):
        ops.class_mmd(x, x, labels, labels, 2)
    with pytest.raises(ops.OpArgumentError, match="num_kernels"):
        ops.weighted_mmd(x, x, w, w, num_kernels=0)
    with pytest.raises(ops.OpArgumentError, match="multiplier"):
        ops.weighted_mmd(x, x, w, w, multiplier=-1)
    with pytest.raises(ops.OpArgumentError, match="class_bandwidth"):
        ops.alignment_mmd(
            x[None], x[None], w[None], w[None], labels[None].long(), labels[None].long(), 2,
            class_bandwidth=torch.ones(1, 3, 3),
        )  # fmt: skip
