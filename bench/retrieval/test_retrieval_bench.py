"""pytest-benchmark over retrieval: joins by code, mining, feature search."""

from __future__ import annotations

from functools import cache

import faiss
import numba
import pytest
import torch

from bench.retrieval import forms


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads(), faiss.omp_get_max_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])
    numba.set_num_threads(before[2])


SIZES = [(10_000, 10_000), (100_000, 100_000), (1_000_000, 10_000)]


@pytest.mark.parametrize("name", ["table", "join", "numpy_argsort", "torch_sort", "faiss_hash", "faiss_flat"])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_join(benchmark, source, target, name):
    if name == "faiss_flat" and source > 10_000:
        pytest.skip("many seconds")
    benchmark.group = f"join {source} x {target}"
    codes = forms.Codes(source, target, "uniform")
    benchmark.pedantic(getattr(forms, name), (codes,), rounds=3 if name.startswith("faiss") else 11, warmup_rounds=1)


@pytest.mark.parametrize("similarity", ["cosine", "one_minus_l1"])
def test_mining(benchmark, similarity):
    benchmark.group = "mining 1e5"
    sides = forms.faces(100_000)
    benchmark.pedantic(forms.mine, (sides, 0.5, similarity), rounds=3, warmup_rounds=1)


@cache
def data():
    return forms.Features()


@pytest.mark.parametrize("name", ["bank", "faiss", "torch"])
@pytest.mark.parametrize("count", [1, 8, 1000])
def test_feature_search(benchmark, count, name):
    benchmark.group = f"top 5 of {count} queries in 1e5 x 512"
    benchmark.pedantic(data().search, (name, count), rounds=3, warmup_rounds=1)
