"""Approximate feature indexes of FAISS, as a function of the rows and the settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import faiss
import torch
from torch import Tensor

from fercore.retrieval.nearest import Metric, faiss_metric, gpu_resources


@dataclass(frozen=True)
class Settings:
    """Of the approximate indexes; more of each finds more and takes longer."""

    lists: int | None = None
    """ivf: cells; None: 4 sqrt N; either way at most N / 39, what FAISS asks for training, and at least one"""
    probes: int = 16
    """ivf: cells a query looks into"""
    links: int = 32
    """hnsw: links a node keeps"""
    depth: int = 64
    """hnsw: candidates a query follows"""


class ApproximateIndex:
    """An index over rows [N,D], built at once.

    Args:
        rows: f32 [N,D], N >= 1.
        kind: "ivf" or "hnsw".
        metric: "ip" or "l2".
        settings: of the index.
        state: what it was built from, kept for the caller.

    Raises:
        ValueError: "hnsw" with rows on a GPU, where FAISS has no such index.
    """

    def __init__(
        self, rows: Tensor, kind: Literal["ivf", "hnsw"], metric: Metric, settings: Settings, state: Any
    ) -> None:
        self.state = state
        if rows.is_cuda and kind == "hnsw":
            raise ValueError("the hnsw index is for the CPU; take flat or ivf on a GPU")
        self._gpu = rows.device.index if rows.is_cuda else None
        number, width = faiss_metric(metric), rows.shape[1]
        threads = faiss.omp_get_max_threads()
        if kind == "ivf":
            most = max(1, len(rows) // 39)
            # 4 sqrt N is FAISS's own rule of thumb for up to a million rows.
            lists = min(settings.lists or max(1, round(4 * len(rows) ** 0.5)), most)
            quantiser = faiss.IndexFlat(width, number)
            index: Any = faiss.IndexIVFFlat(quantiser, width, lists, number)
            index.nprobe = min(settings.probes, lists)
            index.cp.min_points_per_centroid = 1  # one cell is right for fewer than 39 rows: FAISS is not to warn
        else:
            index = faiss.IndexHNSWFlat(width, settings.links, number)
            index.hnsw.efSearch = settings.depth
            faiss.omp_set_num_threads(1)  # links depend on the order of insertion
        try:
            self._index: Any = self._filled(index, rows)
        # Set for the whole process: others' searches must not stay on one thread.
        finally:
            faiss.omp_set_num_threads(threads)

    def _filled(self, index: Any, rows: Tensor) -> Any:
        if self._gpu is None:
            index.train(rows.numpy())
            index.add(rows.numpy())
            return index
        # Moved empty: the cells are then found, and the rows kept, on the GPU.
        moved: Any = faiss.index_cpu_to_gpu(gpu_resources(self._gpu), self._gpu, index)
        moved.cp.min_points_per_centroid = index.cp.min_points_per_centroid  # the copy has its own
        moved.train(rows)
        moved.add(rows)
        return moved

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return scores f32 [Q,k] and indices i64 [Q,k], -1 where fewer were found."""
        if self._gpu is not None:
            scores, indices = self._index.search(queries, k)
            return scores, indices
        scores, indices = self._index.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(indices)
