"""pytest-benchmark over the ops: fused, plain torch, torch.compile, KeOps, and the floor."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from bench.ops import forms
from bench.ops.measure import peak_memory
from fercore.ops import reference
from fercore.ops.mpc import mpc_consistency

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def form(name):
    if name == "compiled":
        return forms.compiled_torch()
    if name == "keops" and importlib.util.find_spec("pykeops") is None:
        pytest.skip("KeOps is not installed")
    return getattr(forms, name)


@pytest.mark.parametrize("name", ["floor", "fused", "plain_torch", "compiled"])
@pytest.mark.parametrize("groups", [1, 10])
@pytest.mark.parametrize("rows", [32, 64, 128])
def test_sample_and_class_level(benchmark, rows, groups, name):
    benchmark.group = f"alignment {groups} x {rows}"
    s = forms.step(rows, groups=groups, targets=groups)
    run = form(name)
    benchmark.extra_info["peak_mb"] = peak_memory(lambda: run(s))
    benchmark.pedantic(run, (s,), rounds=5, warmup_rounds=1)


SIZES = [512, 2048, *(pytest.param(n, marks=pytest.mark.slow) for n in (8192, 32768))]


@pytest.mark.parametrize("name", ["floor", "fused", "fused_forward", "keops"])
@pytest.mark.parametrize("rows", SIZES)
def test_sample_level_of_large_sets(benchmark, rows, name):
    if rows == 32768 and name != "fused_forward":
        pytest.skip("minutes")
    benchmark.group = f"large {rows}"
    s = forms.step(rows, width=512, groups=1, targets=1, classes=0, floor=name == "floor")
    run = form(name)
    benchmark.extra_info["peak_mb"] = peak_memory(lambda: run(s))
    benchmark.pedantic(run, (s,), rounds=1 if rows > 2048 else 3)


@pytest.mark.parametrize("name", ["fused", "eager_batched", "eager_loop", "compiled"])
def test_mpc(benchmark, name):
    benchmark.group = "mpc"
    function = {
        "fused": lambda p, q, offdiag: mpc_consistency(p, q),
        "eager_batched": reference.mpc,
        "eager_loop": forms.mpc_released,
        "compiled": torch.compile(reference.mpc),
    }[name]
    benchmark.pedantic(forms.mpc_with(function), (forms.mpc_views(),), rounds=50, warmup_rounds=2)
