"""What is measured: joins by code in several forms, mining, feature search, and the data they run on."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from numba import njit

from fercore.retrieval import AUIndex, FeatureBank, code_keys, join_codes, mine_triplets, pack_codes

AUS = 17


def scores(rows: int, seed: int, prototypes: int = 600) -> np.ndarray:
    """Return AU scores around prototypes, most units off: float32 [rows,17]."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(9)
    centres = (fixed.random((prototypes, AUS)) ** 2.5).astype(np.float32)
    noise = 0.08 * rng.standard_normal((rows, AUS), dtype=np.float32)
    return (centres[rng.integers(0, prototypes, rows)] + noise).clip(0, 1)


class Codes:
    """Codes of two sides: uniform over all 2^17, the table's worst case, or as faces have them."""

    def __init__(self, source: int, target: int, kind: str) -> None:
        if kind == "uniform":
            sides = [np.random.default_rng(s).random((n, AUS)) > 0.5 for s, n in enumerate((source, target))]
        else:
            sides = [scores(n, s) for s, n in enumerate((source, target))]
        self.source, self.target = (pack_codes(side) for side in sides)
        self.keys = code_keys(self.source, self.target)
        self.tensors = [torch.from_numpy(keys.astype(np.int64)) for keys in self.keys]


@njit(cache=True)
def _table(source, target, size):
    ends = np.zeros(size + 1, np.int64)
    for key in source:
        ends[key + 1] += 1
    for code in range(size):
        ends[code + 1] += ends[code]
    following, order = ends[:-1].copy(), np.empty(len(source), np.int64)
    for row in range(len(source)):
        order[following[source[row]]] = row
        following[source[row]] += 1
    start, stop = np.empty(len(target), np.int64), np.empty(len(target), np.int64)
    for row in range(len(target)):
        start[row], stop[row] = ends[target[row]], ends[target[row] + 1]
    return order, start, stop


def table(c: Codes) -> None:
    """A table of counts and offsets addressed by the code, in compiled code; it has to be told the number of bits."""
    _table(*c.keys, 1 << AUS)


def join(c: Codes) -> None:
    join_codes(*c.keys)


def numpy_argsort(c: Codes) -> None:
    order = np.argsort(c.keys[0])
    ordered = c.keys[0][order]
    np.searchsorted(ordered, c.keys[1], side="left")
    np.searchsorted(ordered, c.keys[1], side="right")


def torch_sort(c: Codes) -> None:
    ordered, _ = torch.sort(c.tensors[0])
    torch.searchsorted(ordered, c.tensors[1])
    torch.searchsorted(ordered, c.tensors[1], right=True)


def faiss_hash(c: Codes) -> None:
    """Distances 0 by FAISS, its index built in the call; only on codes with few matches a query."""
    AUIndex(c.source, index="hash").radius(c.target, 0)


def faiss_flat(c: Codes) -> None:
    AUIndex(c.source).radius(c.target, 0)


def mine(sides: tuple, tau: float, similarity: str) -> object:
    """Mine triplets for every row of the first side."""
    (a, a_keys), (b, b_keys) = sides
    return mine_triplets(a, a_keys, b, b_keys, tau_n=tau, similarity=similarity)


def faces(rows: int) -> tuple:
    """Return scores and keys of two sides."""
    return tuple((s, code_keys(pack_codes(s))) for s in (scores(rows, 0), scores(rows, 1)))


class Features:
    """A bank of unit features, which torch searches in the bank's buffer and FAISS in an index's copy, and queries."""

    def __init__(self, rows: int = 100_000, width: int = 512) -> None:
        generator = torch.Generator().manual_seed(0)
        features = torch.nn.functional.normalize(torch.randn(rows, width, generator=generator))
        self.queries = torch.nn.functional.normalize(torch.randn(1000, width, generator=generator))
        self.bank = FeatureBank(width, rows, 7)
        self.bank.refresh(features, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, 7))
        self.flat = faiss.IndexFlatIP(width)
        self.flat.add(features.numpy())

    def search(self, name: str, count: int) -> object:
        """Find the top 5 of `count` queries."""
        queries = self.queries[:count]
        if name == "bank":
            return self.bank.search(queries, 5)
        if name == "faiss":
            return self.flat.search(queries.numpy(), 5)
        return torch.topk(queries @ self.bank.features.T, 5)
