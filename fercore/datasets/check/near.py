"""Near duplicates: images that are one picture re-encoded, resized, brightened or mirrored.

Two steps. Candidates share 16 bits in one of eight bands of a 128-bit difference hash, so that every pair that differs
in fewer than eight bits is met without comparing all pairs. A candidate counts if the correlation of the two pictures,
reduced to 32x32 grey, reaches a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIDE = 32
BANDS = 8
FLAT = 2.0
"""Standard deviation in grey levels under which a picture says too little to be compared."""
MOST = 2_000
"""Members of one bucket compared pair by pair; larger buckets compare each member with its neighbours in order."""
WINDOW = 32
CHUNK = 1 << 18
SIMILAR = 0.99


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return an image uint8[H,W,3] as uint8[32,32], grey, each pixel a weighted mean of its area."""
    from PIL import Image

    grey = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.HAMMING), dtype=np.uint8)


def near_pairs(thumbs: np.ndarray, similar: float = SIMILAR) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of near duplicates and how alike they are.

    Args:
        thumbs: uint8[n,32,32]. similar: least correlation, in (0, 1].

    Returns:
        int64[m,2] positions, the first below the second, sorted; float32[m] correlation of the better of the two
        readings, as it is and mirrored.
    """
    n = len(thumbs)
    telling = np.flatnonzero(thumbs.reshape(n, -1).std(axis=1) >= FLAT) if n else np.zeros(0, dtype=np.int64)
    if len(telling) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    chosen = thumbs[telling]
    units = _units(chosen)
    best: dict[tuple[int, int], float] = {}
    # Mirrored copies are rows of their own behind the others, so that one search meets both readings.
    for first, second in _candidates(np.concatenate([_hashes(chosen), _hashes(chosen[:, :, ::-1])]), len(telling)):
        for mirrored in (False, True):
            at = (second >= len(telling)) == mirrored
            i, j = first[at], second[at] % len(telling)
            alike = _alike(units, i, j, mirrored=mirrored)
            for a, b, value in zip(i.tolist(), j.tolist(), alike.tolist(), strict=True):
                if value >= similar and a != b:
                    pair = (min(a, b), max(a, b))
                    best[pair] = max(best.get(pair, 0.0), value)
    pairs = sorted(best)
    places = telling[np.array(pairs, dtype=np.int64).reshape(-1, 2)]
    return places, np.array([best[pair] for pair in pairs], dtype=np.float32)


def _units(thumbs: np.ndarray) -> np.ndarray:
    """Return float32[n,1024] with mean 0 and length 1."""
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def _hashes(thumbs: np.ndarray) -> np.ndarray:
    """Return uint16[n,8]: 64 bits of differences along rows, 64 along columns, of an 8x8 reduction."""
    n = len(thumbs)
    small = thumbs.reshape(n, 8, 4, 8, 4).mean(axis=(2, 4))
    # np.roll also compares the last with the first: 64 bits a direction, which fill whole words.
    across = small > np.roll(small, -1, axis=2)
    down = small > np.roll(small, -1, axis=1)
    bits = np.concatenate([across.reshape(n, 64), down.reshape(n, 64)], axis=1)
    packed: np.ndarray = np.packbits(bits, axis=1).view(np.uint16)
    return packed


def _candidates(hashes: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield arrays (first, second) of rows that share a band; the first is below n, a mirrored second is n or more."""
    for band in range(BANDS):
        # Within a bucket by the other bands too: neighbours in a large bucket are the likeliest pairs.
        order = np.lexsort((*hashes.T, hashes[:, band]))
        keys = hashes[order, band]
        edges = np.flatnonzero(np.diff(keys)) + 1
        held: list[tuple[np.ndarray, np.ndarray]] = []
        for start, end in zip(np.r_[0, edges].tolist(), np.r_[edges, len(keys)].tolist(), strict=True):
            members = order[start:end]
            if end - start > 1 and members.min() < n:
                held.extend(_within(members, n))
                if sum(len(first) for first, _ in held) > CHUNK:
                    yield _joined(held)
                    held = []
        if held:
            yield _joined(held)


def _joined(held: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([first for first, _ in held]), np.concatenate([second for _, second in held])


def _within(members: np.ndarray, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs inside a bucket; a mirrored row is never the first."""
    if len(members) <= MOST:
        steps = range(1, len(members))
    else:
        steps = range(1, WINDOW)
    for step in steps:
        a, b = members[:-step], members[step:]
        first, second = np.minimum(a, b), np.maximum(a, b)
        # Not a picture with its own mirror image.
        keep = (first < n) & (second - n != first)
        if keep.any():
            yield first[keep], second[keep]


def _alike(units: np.ndarray, i: np.ndarray, j: np.ndarray, *, mirrored: bool) -> np.ndarray:
    """Return float32[k] correlations of rows i with rows j, the latter mirrored or not."""
    result = np.empty(len(i), dtype=np.float32)
    for start in range(0, len(i), 4096):
        part = slice(start, start + 4096)
        other = units[j[part]]
        if mirrored:
            other = other.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(len(other), -1)
        result[part] = np.einsum("kd,kd->k", units[i[part]], other)
    return result
