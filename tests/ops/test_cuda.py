"""The CUDA twins: equal to the CPU, deterministic, never waiting, under streams, graphs and torch.compile."""

from __future__ import annotations

import pytest
import torch

from fercore import ops
from fercore.ops import build, dispatch
from tests.ops.cases import CASES, GRADIENT, VALUE, differentiate, distance

gpu = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def on_gpu(arguments):
    return [a.cuda() if torch.is_tensor(a) else a for a in arguments]


class TestOnAGpu:
    pytestmark = gpu

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    @pytest.mark.parametrize("name", CASES)
    def test_equals_the_cpu(self, name, dtype):
        x, y, arguments = CASES[name].tensors(dtype)
        expected = differentiate(dispatch.alignment, x, y, arguments)
        actual = differentiate(dispatch.alignment, x.cuda(), y.cuda(), on_gpu(arguments))
        assert torch.equal(actual[2].cpu(), expected[2])
        for a, e, tolerance in zip(actual, expected, [VALUE, VALUE, VALUE, GRADIENT, GRADIENT], strict=True):
            assert distance(a, e) <= tolerance[dtype]

    def test_repeats_bit_for_bit(self):
        x, y, arguments = CASES["one_group"].tensors(torch.float32)
        runs = [differentiate(dispatch.alignment, x.cuda(), y.cuda(), on_gpu(arguments)) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))

    def test_never_waits_for_the_gpu(self):
        x, y, arguments = CASES["plain"].tensors(torch.float32)
        x, y, arguments = x.cuda().requires_grad_(), y.cuda().requires_grad_(), on_gpu(arguments)
        torch.cuda.set_sync_debug_mode("error")
        try:
            sample, value, _ = dispatch.alignment(x, y, *arguments)
            (sample.sum() + value.sum()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_on_another_stream_and_in_a_graph(self):
        x, y, arguments = CASES["plain"].tensors(torch.float32)
        expected = dispatch.alignment(x, y, *arguments)
        x, y, arguments = x.cuda(), y.cuda(), on_gpu(arguments)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            there = dispatch.alignment(x, y, *arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        leaves = x.requires_grad_(), y.requires_grad_()
        with torch.cuda.graph(graph):
            captured = dispatch.alignment(*leaves, *arguments)
            grads = torch.autograd.grad(captured.sample.sum() + captured.value.sum(), leaves)
        graph.replay()
        for result in (there, captured):
            assert distance(result.sample, expected.sample) <= 1e-5
            assert distance(result.value, expected.value) <= 1e-5
        outside = dispatch.alignment(*leaves, *arguments)
        for a, e in zip(grads, torch.autograd.grad(outside.sample.sum() + outside.value.sum(), leaves), strict=True):
            assert torch.equal(a, e)

    def test_under_torch_compile(self):
        x, y, arguments = CASES["plain"].tensors(torch.float32)
        compiled = torch.compile(lambda x, y, *rest: dispatch.alignment(x, y, *rest)[0], fullgraph=True)
        actual = compiled(x.cuda(), y.cuda(), *on_gpu(arguments))
        assert distance(actual, dispatch.alignment(x, y, *arguments)[0]) <= 1e-5

    @pytest.mark.parametrize("form", ["abs", "offdiag"])
    def test_mpc_equals_the_cpu(self, form):
        p, q = (torch.randn(10, 128, 7, dtype=torch.float64).softmax(-1).requires_grad_() for _ in range(2))
        expected = ops.mpc_consistency(p, q, form=form)
        actual = ops.mpc_consistency(p.cuda(), q.cuda(), form=form)
        assert distance(actual, expected) <= 1e-12
        for a, e in zip(
            torch.autograd.grad(actual.sum(), (p, q)), torch.autograd.grad(expected.sum(), (p, q)), strict=True
        ):
            assert torch.allclose(a, e, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(build.find_compiler("cuda") is None, reason="no nvcc")
@pytest.mark.skipif(not torch.version.cuda, reason="this torch is built without CUDA")
def test_the_cuda_library_compiles_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("FERCORE_CUDA_ARCHS", "90")
    path = build.build("cuda", tmp_path / "fercore_cuda.so")
    assert path.stat().st_size > 0
