"""Random draws that depend on a seed, a stream and a row alone: the same on any number of threads.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), one sequence a row;
bounded draws without bias (Lemire, "Fast random integer generation in an interval", ACM TOMACS 2019).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_ONE, _32 = np.uint64(1), np.uint64(32)
MAX_ROWS = 2**32 - 1
"""Bounded draws take 32 random bits."""


@njit("uint64(uint64)", cache=True)
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit("uint64(uint64, uint64, uint64)", cache=True)
def start(seed: np.uint64, stream: np.uint64, row: np.uint64) -> np.uint64:
    """Return the state at which a row's sequence begins."""
    # Mixed at every level: neighbouring seeds, streams and rows start far apart.
    return _mix(_mix(_mix(seed) + _GOLDEN * (stream + _ONE)) + _GOLDEN * (row + _ONE))


@njit("Tuple((uint64, int64))(uint64, int64)", cache=True)
def below(state: np.uint64, n: int) -> tuple[np.uint64, int]:
    """Return the next state and a number uniform in 0..n-1, for 1 <= n < 2**32."""
    size = np.uint64(n)
    state += _GOLDEN
    product = (_mix(state) >> _32) * size
    # Lemire's test: a division is needed only in this rare case, and a retry in fewer still.
    if (product & _LOW) < size:
        least = ((_LOW + _ONE) - size) % size
        while (product & _LOW) < least:
            state += _GOLDEN
            product = (_mix(state) >> _32) * size
    return state, np.int64(product >> _32)  # type: ignore[return-value]


@njit("int64[:](uint64, uint64, int64[:])", cache=True)
def _draw(seed: np.uint64, stream: np.uint64, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    drawn = np.full(len(sizes), np.int64(-1))
    for row in range(len(sizes)):
        if sizes[row] > 0:
            drawn[row] = below(start(seed, stream, np.uint64(row)), sizes[row])[1]
    return drawn


def draw_below(seed: int, sizes: npt.NDArray[np.int64], *, stream: int = 0) -> npt.NDArray[np.int64]:
    """Return for each row a number uniform in 0..size-1, or -1 where its size is 0.

    Args:
        seed: any integer; taken modulo 2**64.
        sizes: int64 [N], each below 2**32.
        stream: tells apart draws of one seed.
    """
    drawn: npt.NDArray[np.int64] = _draw(seed_bits(seed), np.uint64(stream), np.ascontiguousarray(sizes, np.int64))
    return drawn


def seed_bits(seed: int) -> np.uint64:
    """Return a seed of any size or sign as 64 bits."""
    return np.uint64(int(seed) & 0xFFFFFFFFFFFFFFFF)
