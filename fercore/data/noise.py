"""Random numbers as pure functions of what they are for, so that resuming and worker processes change nothing."""

from __future__ import annotations

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
STRIDE = np.uint64(256)
"""Numbers a single draw may use."""


def key(*parts: object) -> int:
    """Return a 64-bit key for a purpose, such as (seed, side, view)."""
    # A separator that no name holds: ("a", "bc") and ("ab", "c") are different purposes.
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(stream: int, draws: np.ndarray, count: int) -> np.ndarray:
    """Return float32[len(draws), count] in [0, 1): SplitMix64 at the counters that belong to each draw.

    Args:
        stream: a `key`.
        draws: int64[B] numbers of the draws.
        count: numbers per draw, at most 256.
    """
    with np.errstate(over="ignore"):
        # Draw d owns the counters 256 d + 1 to 256 d + 256: streams of neighbouring draws never overlap.
        counter = np.asarray(draws).astype(np.uint64)[:, None] * STRIDE + np.arange(1, count + 1, dtype=np.uint64)
        # SplitMix64 (Steele et al. 2014): state = seed + counter *
        # golden gamma, then the mixing of its authors. Overflow wraps.
        z: np.ndarray = np.uint64(stream) + counter * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * MIX1
        z = (z ^ (z >> np.uint64(27))) * MIX2
        z ^= z >> np.uint64(31)
    # The upper 24 bits, as many as a float32 holds: every value is exact, and 1.0 cannot come out.
    top: np.ndarray = (z >> np.uint64(40)).astype(np.float32)
    top *= np.float32(2.0**-24)
    return top


def permutation(n: int, *parts: object) -> np.ndarray:
    """Return a permutation of 0..n-1 that belongs to a purpose."""
    return np.random.Generator(np.random.Philox(key=key(*parts))).permutation(n)
