"""Feature search without an index of its own: brute force over rows where they lie, by whichever form is fastest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import faiss
import torch
from torch import Tensor

Metric = Literal["ip", "l2"]
FEW = 10
"""Up to so many queries at 1e5 x 512 torch's tall product is faster than FAISS's blocks; one query alone is not."""
_THRESHOLD_LOCK = threading.Lock()  # the threshold is global in FAISS


def faiss_metric(metric: Metric) -> int:
    """Return FAISS's number of a metric."""
    return int(faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2)


def exact_search(queries: Tensor, rows: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Return the k best rows of each query, best first.

    Args:
        queries: f32 [Q,D].
        rows: f32 [N,D] on the same device, 1 <= k <= N.
        k: how many.
        metric: "ip": inner products, descending; "l2": squared distances, ascending.

    Returns:
        scores f32 [Q,k] and indices i64 [Q,k], on the device of the queries.
    """
    if not len(queries):
        return queries.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=queries.device)
    if queries.is_cuda:
        return _on_gpu(queries, rows, k, metric)
    if metric == "ip" and 1 < len(queries) <= FEW:
        best = torch.topk((rows @ queries.T).T, k, dim=1)
        return best.values, best.indices
    with _blocks(len(queries) > 1):
        scores, indices = faiss.knn(queries.numpy(), rows.numpy(), k, metric=faiss_metric(metric))
    return torch.from_numpy(scores), torch.from_numpy(indices)


@contextmanager
def _blocks(wanted: bool) -> Iterator[None]:
    """Let FAISS take matrix products for any number of queries, or for none: its default suits other sizes."""
    with _THRESHOLD_LOCK:
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1 if wanted else 2**30
        try:
            yield
        finally:
            faiss.cvar.distance_compute_blas_threshold = before


@cache
def gpu_resources(device: int) -> Any:
    """Return FAISS's scratch memory and streams on a GPU, one a device and process."""
    # Imported for what it does: it lets FAISS take torch tensors, and only GPU searches need that.
    import faiss.contrib.torch_utils

    with torch.cuda.device(device):
        return faiss.StandardGpuResources()


def _on_gpu(queries: Tensor, rows: Tensor, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    resources = gpu_resources(queries.device.index)
    scores, indices = faiss.knn_gpu(
        resources, queries, rows, k, metric=faiss_metric(metric), device=queries.device.index
    )  # fmt: skip
    return scores, indices
