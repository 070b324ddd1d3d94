"""Search among binary AU codes on FAISS: equal codes, codes within a Hamming distance, nearest codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import faiss
import numpy as np
import numpy.typing as npt

from fercore.retrieval.codes import Bytes, check_codes, code_keys
from fercore.retrieval.join import join_codes

Ints = npt.NDArray[np.int64]
Kind = Literal["flat", "hash"]
_FLIPS = 3  # probing costs sum of C(bits, i), i <= flips, buckets a query; a scan of everything is cheaper beyond


@dataclass(frozen=True)
class Matches:
    """What each of Q queries found: `rows[offsets[i]:offsets[i + 1]]`, nearest first, then by row."""

    offsets: Ints
    """[Q+1]"""
    rows: Ints
    """[total] rows of the indexed codes"""
    distances: Ints
    """[total] Hamming distances in bits"""


def check_distance(distance: int) -> int:
    """Return a Hamming distance in bits as an int.

    Raises:
        ValueError: no integer, or negative.
    """
    if isinstance(distance, bool) or not isinstance(distance, (int, np.integer)) or distance < 0:
        raise ValueError(f"distance must be a whole number of bits, 0 or more, got {distance!r}")
    return int(distance)


class AUIndex:
    """Binary codes, searched exactly.

    Args:
        codes: uint8 [N,bytes] from `pack_codes`.
        index: "flat" compares every code; "hash" looks up buckets by the first `hash_bits` bits, faster for large N and
            small distances. Both give exact results.
        hash_bits: bits of the bucket's address, 1 to 64 and no more than the code has; None: about log2 N.

    Raises:
        ValueError: wrong codes or settings.
    """

    def __init__(self, codes: npt.ArrayLike, *, index: Kind = "flat", hash_bits: int | None = None) -> None:
        self.codes: Bytes = check_codes(codes)
        self.bits = 8 * self.codes.shape[1]
        if index not in get_args(Kind):
            raise ValueError(f"index must be one of {', '.join(get_args(Kind))}, got {index!r}")
        # As many buckets as codes, so that a bucket holds about one.
        default = min(self.bits, max(4, len(self.codes).bit_length() - 1))
        chosen = default if hash_bits is None else hash_bits
        if not 1 <= chosen <= min(64, self.bits):
            raise ValueError(f"hash_bits must lie in 1..{min(64, self.bits)}, got {hash_bits}")
        self.index = index
        self._faiss: Any = (
            faiss.IndexBinaryFlat(self.bits) if index == "flat" else faiss.IndexBinaryHash(self.bits, chosen)
        )
        if len(self.codes):
            self._faiss.add(self.codes)

    def __len__(self) -> int:
        return len(self.codes)

    def exact(self, queries: npt.ArrayLike) -> Matches:
        """Find the rows with the very code of each query, by the exact join; memory grows with the matches.

        Args:
            queries: uint8 [Q,bytes].
        """
        checked = self._check(queries)
        # In one call: keys of codes wider than 64 bits compare only within it.
        own, asked = code_keys(self.codes, checked)
        join = join_codes(own, asked)
        offsets = np.append(0, np.cumsum(join.counts))
        # Ranges start[i]..stop[i] laid end to end without a loop: each shifted to where its own output begins.
        places = np.repeat(join.start - offsets[:-1], join.counts) + np.arange(offsets[-1])
        return Matches(offsets, join.source_order[places], np.zeros(len(places), np.int64))

    def radius(self, queries: npt.ArrayLike, distance: int) -> Matches:
        """Find all rows within a Hamming distance of each query; memory grows with the matches.

        Args:
            queries: uint8 [Q,bytes].
            distance: in bits, inclusive (FAISS's own range search leaves its radius out).

        Raises:
            ValueError: a distance that is no integer, or negative.
        """
        checked = self._check(queries)
        distance = min(check_distance(distance), self.bits)
        if not len(self) or not len(checked):
            return Matches(np.zeros(len(checked) + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
        searched = self._faiss
        if self.index == "hash" and distance <= _FLIPS:
            searched.nflip = distance  # codes this near have at most so many other bits in the address
        elif self.index == "hash":
            # Built for this call and dropped: a wide radius is rare, and a second copy of the codes would stay.
            searched = faiss.IndexBinaryFlat(self.bits)
            searched.add(self.codes)
        limits, distances, rows = searched.range_search(checked, distance + 1)
        offsets, spans = limits.astype(np.int64), np.asarray(distances, np.int64)
        # FAISS returns each query's rows in an order of its own, by buckets or by threads.
        order = np.lexsort((rows, spans, np.repeat(np.arange(len(checked)), np.diff(offsets))))
        return Matches(offsets, np.asarray(rows, np.int64)[order], spans[order])

    def nearest(self, queries: npt.ArrayLike, k: int = 1) -> tuple[Ints, Ints]:
        """Find k nearest rows of each query; which of several rows at the last distance are given is not defined.

        Args:
            queries: uint8 [Q,bytes].
            k: how many, at least 1.

        Returns:
            Hamming distances [Q,k], ascending, and rows [Q,k]; where fewer than k codes are indexed, row -1 at a
            distance of one more than the code has bits.

        Raises:
            ValueError: k below 1.
        """
        checked = self._check(queries)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        kept = min(k, len(self))
        distances = np.full((len(checked), k), self.bits + 1, np.int64)
        rows = np.full((len(checked), k), -1, np.int64)
        if kept and len(checked):
            search = self._by_hash if self.index == "hash" else self._faiss.search
            distances[:, :kept], rows[:, :kept] = search(checked, kept)
        return distances, rows

    def _by_hash(self, queries: Bytes, k: int) -> tuple[Ints, Ints]:
        """Probe more buckets until the k-th neighbour cannot be beaten; compare everything for the queries left."""
        distances = np.full((len(queries), k), self.bits + 1, np.int64)
        rows = np.full((len(queries), k), -1, np.int64)
        left = np.arange(len(queries))
        for flips in range(_FLIPS):
            self._faiss.nflip = flips
            distances[left], rows[left] = self._faiss.search(queries[left], k)
            # All codes within `flips` bits have been seen: a k-th neighbour no farther than that is final.
            left = left[(rows[left, -1] < 0) | (distances[left, -1] > flips)]
            if not len(left):
                return distances, rows
        distances[left], rows[left] = faiss.knn_hamming(queries[left], self.codes, k)
        return distances, rows

    def _check(self, queries: npt.ArrayLike) -> Bytes:
        checked = check_codes(queries)
        if checked.shape[1] != self.codes.shape[1]:
            raise ValueError(f"queries have {checked.shape[1]} bytes, the indexed codes {self.codes.shape[1]}")
        return checked
