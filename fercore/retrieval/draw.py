"""The compiled part of triplet mining: draws for all anchors in parallel, each from a random sequence of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from fercore.retrieval.rng import below, start
from fercore.retrieval.score_tree import LEAF_ROWS, MIXED, ONE, ZERO, ScoreTree

TRIES = 64
"""Random candidates before a search: an anchor whose negatives are one in ten goes on to it in 1 of 800 cases."""
NOT_FOUND, FOUND, FELL_BACK = 0, 1, 2
COSINE, ONE_MINUS_L1 = 0, 1
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Best = tuple[np.uint64, int, int, np.float32, int]
"""Random state, rows that pass, rows as similar as the most similar one, that one's similarity, the row chosen."""
_SLACK = np.float32(1e-5)  # bounds and similarities round differently; within it a node is looked into
_LOOSE = {"reassoc", "contract", "nsz"}  # sums may be reordered, and so use vector instructions


# Rows are passed as array and index: a slice counts references, and threads would wait for each other at the count.


@njit(cache=True, fastmath=_LOOSE)
def similarity(measure: int, anchors: Floats, i: int, rows: Floats, row: int) -> np.float32:
    """Return the similarity of two rows: the dot product of unit rows, or 1 - mean of the absolute differences."""
    total = np.float32(0)
    if measure == COSINE:
        for k in range(anchors.shape[1]):
            total += anchors[i, k] * rows[row, k]
        return total
    for k in range(anchors.shape[1]):
        total += abs(anchors[i, k] - rows[row, k])
    return np.float32(1) - total / np.float32(anchors.shape[1])


@njit(cache=True, fastmath=_LOOSE)
def _most(measure: int, anchors: Floats, i: int, low: Floats, high: Floats, node: int) -> np.float32:
    """Return a bound from above of the similarity to any row in a box; for the cosine the anchor is a unit row."""
    outside, product = np.float32(0), np.float32(0)
    if measure == COSINE:
        for k in range(anchors.shape[1]):
            a = anchors[i, k]
            gap = max(low[node, k] - a, a - high[node, k], np.float32(0))
            outside += gap * gap
            product += a * high[node, k]
        # Two bounds for unit rows, a.r = 1 - |a - r|^2 / 2: the first by the box's
        # upper corner (scores are not negative), the second by the distance to the box.
        return min(product, np.float32(1) - np.float32(0.5) * outside)
    for k in range(anchors.shape[1]):
        a = anchors[i, k]
        outside += max(low[node, k] - a, a - high[node, k], np.float32(0))
    return np.float32(1) - outside / np.float32(anchors.shape[1])


@njit(cache=True, fastmath=_LOOSE)
def _least(measure: int, anchors: Floats, i: int, low: Floats, high: Floats, node: int) -> np.float32:
    """Return a bound from below."""
    total = np.float32(0)
    if measure == COSINE:
        for k in range(anchors.shape[1]):
            # Scores are not negative, so the lower corner gives the smallest product.
            total += anchors[i, k] * low[node, k]
        return total
    for k in range(anchors.shape[1]):
        total += max(abs(anchors[i, k] - low[node, k]), abs(anchors[i, k] - high[node, k]))
    return np.float32(1) - total / np.float32(anchors.shape[1])


@njit(cache=True)
def _is_zero(anchors: Floats, i: int) -> bool:
    for k in range(anchors.shape[1]):
        if anchors[i, k] != 0:
            return False
    return True


@njit(cache=True, parallel=True)
def draw(
    seed: np.uint64, measure: int, tau: np.float32, tries: int,
    anchors: Floats, anchor_labels: Ints, begin: Ints, end: Ints, allowed: Ints,
    rows: Floats, labels: Ints, positive: Ints, negative: Ints, state: Ints,
) -> None:  # fmt: skip
    """Draw a positive for each anchor, and a negative by rejection: uniform among those that pass.

    Args:
        seed: of the whole draw.
        measure: COSINE or ONE_MINUS_L1.
        tau: a negative's similarity lies above.
        tries: candidates at most.
        anchors: [N,A].
        anchor_labels: [N]; a negative has another label.
        begin: [N] first row of the anchor's code.
        end: [N] one past the last.
        allowed: [N] how many rows have another code and another label.
        rows: [M,A] sorted by code.
        labels: [M] of the rows.
        positive: [N], written: a row, -1 without one.
        negative: [N], written: a row, -1 without one.
        state: [N], written: NOT_FOUND, FOUND, or FELL_BACK for an all-zero anchor, whose cosine is 0 with all.
    """
    for i in prange(len(anchors)):
        positive[i], negative[i], state[i] = -1, -1, NOT_FOUND
        own = end[i] - begin[i]
        if own == 0:
            continue
        random = start(seed, np.uint64(0), np.uint64(i))
        random, place = below(random, own)
        positive[i] = begin[i] + place
        if allowed[i] == 0:
            continue
        equal = measure == COSINE and _is_zero(anchors, i)
        for _ in range(tries):
            # Rows of the anchor's own code are one range: drawing beside it needs no retry.
            random, place = below(random, len(rows) - own)
            row = place if place < begin[i] else place + own
            if labels[row] == anchor_labels[i]:
                continue
            passes = similarity(measure, anchors, i, rows, row) > tau
            if passes or equal:
                negative[i] = row
                state[i] = FOUND if passes else FELL_BACK
                break


@njit(cache=True, fastmath=_LOOSE)
def _similarities(measure: int, anchors: Floats, i: int, columns: Floats, first: int, count: int, out: Floats) -> None:
    """Write the similarities to `count` rows, which stand side by side in columns [A,M]: vectors of rows."""
    begin = np.uintp(first)  # signed indexes may count from the end, and the check would keep vectors away
    for row in range(count):
        out[row] = np.float32(0)
    for k in range(anchors.shape[1]):
        a = anchors[i, k]
        if measure == COSINE:
            for row in range(count):
                out[row] += a * columns[k, begin + np.uintp(row)]
        else:
            for row in range(count):
                out[row] += abs(a - columns[k, begin + np.uintp(row)])
    if measure == ONE_MINUS_L1:
        for row in range(count):
            out[row] = np.float32(1) - out[row] / np.float32(anchors.shape[1])


@njit(cache=True)
def _take(best: Best, tau: np.float32, value: np.float32, first: int, count: int) -> Best:
    """Weigh `count` rows of one similarity: a reservoir of those that pass, else of the most similar."""
    random, passing, ties, most, chosen = best
    if value > tau:
        passing += count
        # Reservoir sampling of blocks: the newcomers hold `count`
        # of `passing` places, so each row ends up equally likely.
        random, place = below(random, passing)
        chosen = first + place if place < count else chosen
    elif passing == 0 and value >= most:
        ties = count if value > most else ties + count
        most = value
        random, place = below(random, ties)
        chosen = first + place if place < count else chosen
    return random, passing, ties, most, chosen


@njit(cache=True)
def _leaf(
    best: Best, measure: int, tau: np.float32, anchors: Floats, i: int, a_label: int, begin: int, end: int,
    columns: Floats, labels: Ints, first: int, last: int, out: Floats,
) -> Best:  # fmt: skip
    if last - first > LEAF_ROWS:  # only equal rows of one code and label stay together
        _similarities(measure, anchors, i, columns, first, ONE, out)
        return _take(best, tau, out[0], first, last - first)
    _similarities(measure, anchors, i, columns, first, last - first, out)
    for row in range(first, last):
        value = out[row - first]
        matters = value > tau or (best[1] == 0 and value >= best[3])
        if matters and not (begin <= row < end) and labels[row] != a_label:
            best = _take(best, tau, value, row, ONE)
    return best


@njit(cache=True)
def _search(
    random: np.uint64, measure: int, tau: np.float32, anchors: Floats, i: int, a_label: int, begin: int, end: int,
    columns: Floats, labels: Ints, tree: ScoreTree,
) -> tuple[int, int]:  # fmt: skip
    """Return a row drawn uniformly among those that pass, else among the most similar, and FOUND or FELL_BACK."""
    stack, bounds, out = np.empty(256, np.int64), np.empty(256, np.float32), np.empty(LEAF_ROWS, np.float32)
    stack[0], bounds[0], depth = 0, np.float32(np.inf), 1
    first_row, last_row, right, labels_of, low, high = tree
    best = (random, ZERO, ZERO, np.float32(-np.inf), -ONE)
    while depth > 0:
        depth -= 1
        node = stack[depth]
        # With a row that passes in hand only others above tau count; until then also those near the best so far.
        if bounds[depth] < (tau if best[1] > 0 else min(tau, best[3])) - _SLACK:
            continue
        first, last, label = first_row[node], last_row[node], labels_of[node]
        # No row of this node may be a negative: all have the anchor's code, or its label.
        if (first >= begin and last <= end) or label == a_label:
            continue
        # A node that touches the anchor's code, or mixes labels, has rows that must be looked at one by one.
        free = (last <= begin or first >= end) and (label != MIXED or a_label < 0)
        # Every row passes: the node is weighed as a whole, unseen.
        if free and _least(measure, anchors, i, low, high, node) > tau + _SLACK:
            best = _take(best, tau, np.float32(np.inf), first, last - first)
        elif right[node] >= 0:
            one, two = node + 1, right[node]
            near = _most(measure, anchors, i, low, high, one)
            far = _most(measure, anchors, i, low, high, two)
            # The nearer child on top of the stack: a good row early prunes more of what follows.
            if near < far:
                one, two, near, far = two, one, far, near
            stack[depth], bounds[depth], stack[depth + 1], bounds[depth + 1] = two, far, one, near
            depth += 2
        else:
            best = _leaf(best, measure, tau, anchors, i, a_label, begin, end, columns, labels, first, last, out)
    return best[4], FOUND if best[1] > 0 else FELL_BACK


@njit(cache=True, parallel=True)
def search(
    seed: np.uint64, measure: int, tau: np.float32, pending: Ints,
    anchors: Floats, anchor_labels: Ints, begin: Ints, end: Ints,
    columns: Floats, labels: Ints, tree: ScoreTree, negative: Ints, state: Ints,
) -> None:  # fmt: skip
    """Find what rejection left out, for the anchors `pending`; columns is [A,M], the others are those of `draw`."""
    for at in prange(len(pending)):
        i = pending[at]
        # Stream 1: `draw` has used stream 0 of the same rows.
        random = start(seed, np.uint64(1), np.uint64(i))
        negative[i], state[i] = _search(
            random, measure, tau, anchors, i, anchor_labels[i], begin[i], end[i], columns, labels, tree
        )
