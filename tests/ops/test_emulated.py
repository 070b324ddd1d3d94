"""The CUDA kernels' logic on the CPU (emulated/emulated.h): equal to the CPU kernels, whatever the order of threads.

Compiled with groups of more than 64 rows streamed, so that small cases reach both ways.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from fercore.ops import build, dispatch
from tests.ops.cases import CASES, GRADIENT, VALUE, Case, distance

HERE = Path(__file__).parent / "emulated"
STREAMED = {
    "streamed_shared": Case(4, 2, 90, 70, 20, 3, labels_by_group=True),
    "streamed_uneven": Case(2, 1, 5, 130, 70, 4, absent=1),
    "streamed_one_side": Case(1, 1, 70, 0, 5, 2),
    "streamed_offset": Case(1, 1, 65, 64, 33, 3, offset=1e3),
    "streamed_duplicates": Case(1, 1, 80, 66, 12, 3, duplicates=True),
}
ALL = {name: case for name, case in CASES.items() if name != "streamed"} | STREAMED
BACKWARDS = ["plain", "one_group", "streamed_shared"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    if build.find_compiler("cpu") is None:
        pytest.skip("needs a C++ compiler")
    assert dispatch.compiled("cpu")
    cpp_extension.load(
        "fercore_emulated",
        [str(HERE / f"{name}.cpp") for name in ("library", "mmd", "mpc")],
        # Fortified jumps take one fiber's stack for another's end.
        extra_cflags=["-O1", "-U_FORTIFY_SOURCE", "-DTORCH_TARGET_VERSION=0x020a000000000000"],
        extra_include_paths=[str(HERE)],
        build_directory=str(tmp_path_factory.mktemp("emulated")),
        is_python_module=False,
    )
    return torch.ops.fercore_emulated


def both_ways(ops, x, y, arguments):
    sample, value, valid, bands, memo = ops.mmd(x, y, *arguments, True)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (sample, value)]
    before, after = arguments[:6], arguments[8:]
    grad_x, grad_y = ops.mmd_backward(*grads, x, y, *before, bands, memo, *after)
    return sample, value, valid, bands, grad_x, grad_y


def agree(actual, expected, dtype):
    assert torch.equal(actual[2], expected[2])
    for a, e, tolerance in zip(actual, expected, [VALUE] * 4 + [GRADIENT] * 2, strict=True):
        assert distance(a, e) <= tolerance[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("name", ALL)
def test_mmd_equals_the_cpu(emulated, name, dtype):
    x, y, arguments = ALL[name].tensors(dtype)
    agree(both_ways(emulated, x, y, arguments), both_ways(torch.ops.fercore, x, y, arguments), dtype)


def test_rows_without_features_are_one_point(emulated):
    x, y, arguments = Case(1, 1, 40, 40, 0, 2).tensors(torch.float64)
    sample, value, valid, bands, grad_x, _ = both_ways(emulated, x, y, arguments)
    assert max(sample.abs().max(), value.abs().max()) < 1e-12
    assert valid.all()
    assert bands.eq(1e-12).all()
    assert grad_x.shape == x.shape


@pytest.mark.parametrize("name", ["plain", "streamed_shared"])
def test_what_is_no_number_shows(emulated, name):
    x, y, arguments = ALL[name].tensors(torch.float32)
    x[0, 3, 2] = float("nan")
    sample, _, _, _, grad_x, _ = both_ways(emulated, x, y, arguments)
    assert sample[0].isnan()
    assert grad_x[0, 3].isnan().all()
    assert sample[1:].isfinite().all()


@pytest.mark.parametrize("name", ["large_scale", "streamed_shared"])
def test_a_stray_first_row_costs_no_digits_of_the_others(emulated, name):
    x, y, arguments = ALL[name].tensors(torch.float64)
    y[:, 0] *= 50
    arguments[5][:, 0] = -1  # takes no part in the classes
    expected = both_ways(torch.ops.fercore, x, y, arguments)
    narrow = [a.float() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]
    actual = both_ways(emulated, x.float(), y.float(), narrow)
    assert distance(actual[1], expected[1]) <= 1e-5


@pytest.mark.parametrize("name", ["plain", "streamed_shared"])
def test_given_bandwidths_are_used(emulated, name):
    x, y, arguments = ALL[name].tensors(torch.float64)
    groups, classes = x.shape[0], arguments[8]
    given = [torch.rand(groups, dtype=x.dtype) + 1, torch.rand(groups, classes, classes, dtype=x.dtype) + 1]
    arguments = (*arguments[:6], *given, *arguments[8:])
    actual = both_ways(emulated, x, y, arguments)
    agree(actual, both_ways(torch.ops.fercore, x, y, arguments), torch.float64)
    assert torch.equal(actual[3], torch.cat([given[0][:, None], given[1].flatten(1)], 1))


@pytest.mark.parametrize("name", BACKWARDS)
def test_the_order_of_threads_changes_nothing(emulated, monkeypatch, name):
    x, y, arguments = ALL[name].tensors(torch.float32)
    forwards = both_ways(emulated, x, y, arguments)
    monkeypatch.setenv("FERCORE_EMULATED_ORDER", "backwards")
    for a, b in zip(both_ways(emulated, x, y, arguments), forwards, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("offdiag", [False, True])
@pytest.mark.parametrize("shape", [(3, 17, 7), (1, 1, 1), (2, 40, 11), (2, 0, 4)])
def test_mpc_equals_the_cpu(emulated, shape, offdiag, dtype):
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.rand(shape, generator=generator, dtype=torch.float64).softmax(-1).to(dtype) for _ in range(2))
    grad = torch.randn(shape[0], generator=generator, dtype=torch.float64).to(dtype)

    def run(ops):
        value, joint = ops.mpc(p, q, offdiag)
        return value, joint, *ops.mpc_backward(grad, p, q, joint, offdiag)

    tolerances = [VALUE] * 2 + [GRADIENT] * 2
    for actual, expected, tolerance in zip(run(emulated), run(torch.ops.fercore), tolerances, strict=True):
        assert distance(actual, expected) <= tolerance[dtype]
