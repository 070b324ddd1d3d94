"""Counter-based random numbers: a value depends on its keys alone, never on how many were drawn before it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFF)


def mix(x: Keys) -> Keys:
    """Return the splitmix64 hash of each key, u64[N] with N >= 1 (array arithmetic wraps without a warning)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def _key(part: int | str | NDArray[np.int64]) -> Keys:
    if isinstance(part, str):
        # Not hash(): Python salts it for each process.
        part = zlib.crc32(part.encode())
    if isinstance(part, int):
        part %= 2**64
    return np.atleast_1d(np.asarray(part)).astype(np.uint64)


@lru_cache(maxsize=4096)
def _name_key(name: str) -> Keys:
    return mix(_key(name) * _MIX2 + _GOLDEN)


class Draw:
    """Random streams for N items; each named draw is a function of the item's keys and the name.

    Args:
        parts: what identifies an item: integers, strings, or i64[N] arrays (at least one array).
    """

    def __init__(self, *parts: int | str | NDArray[np.int64]) -> None:
        key = np.zeros(1, dtype=np.uint64)
        for part in parts:
            key = mix(key * np.uint64(3) + _key(part) * np.uint64(2) + _GOLDEN)
        self.keys: Keys = key

    def bits(self, name: str) -> Keys:
        """Return 64 random bits per item, u64[N]."""
        return mix(self.keys ^ _name_key(name))

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> Array:
        """Return uniform values in [low, high), f64[N]."""
        # 53 bits, as many as a float64 holds.
        unit = (self.bits(name) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def normal(self, name: str, scale: float = 1.0) -> Array:
        """Return a bell-shaped value per item, f64[N]: four uniforms summed, variance scale^2, at most 3.46 scale."""
        bits = self.bits(name)
        total = bits & _LOW
        for shift in (16, 32, 48):
            total = total + ((bits >> np.uint64(shift)) & _LOW)
        bell: Array = (total.astype(np.float64) * (2.0 / 65535.0) - 4.0) * (scale * 0.75**0.5)
        return bell

    def chance(self, name: str, probability: float) -> Array:
        """Return 1.0 with the probability given, else 0.0, f64[N]."""
        return (self.uniform(name) < probability).astype(np.float64)

    def choice(self, name: str, weights: Sequence[float]) -> NDArray[np.int64]:
        """Return an index drawn by weight, i64[N]."""
        edges = np.cumsum(np.asarray(weights, dtype=np.float64))
        picked = np.searchsorted(edges / edges[-1], self.uniform(name), side="right")
        return np.minimum(picked, len(edges) - 1).astype(np.int64)
