"""A tree of boxes over action-unit scores: exact search that leaves out what cannot matter.

Rows come sorted by code and label. A node is split at the highest bit in which its codes differ, a node of one code by
label, a node of one code and label at the median of its widest dimension; so most nodes hold a single code, and an
anchor's own code, whose scores are the nearest of all, is passed over at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

LEAF_ROWS = 64
MIXED = -3
ZERO: Any = np.int64(0)
ONE: Any = np.int64(1)
"""Not literals, each a type of its own to numba: what is called with 1 is compiled once more."""
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class ScoreTree(NamedTuple):
    """Nodes in preorder; node 0 is the root."""

    first: Ints
    """[nodes] rows of a node: first..last-1"""
    last: Ints
    right: Ints
    """[nodes] the second child, -1 for a leaf; the first child is the next node"""
    label: Ints
    """[nodes] the label all rows share, or MIXED"""
    low: Floats
    """[nodes,A] box around the rows"""
    high: Floats


# Loops take numba a fraction of the time to compile that assigned slices and expressions of arrays take.


@njit(cache=True)
def _row_box(rows: Floats, first: int, last: int, low: Floats, high: Floats) -> None:
    for a in range(rows.shape[1]):
        low[a] = high[a] = rows[first, a]
    for row in range(first + 1, last):
        for a in range(rows.shape[1]):
            low[a] = min(low[a], rows[row, a])
            high[a] = max(high[a], rows[row, a])


@njit(cache=True)
def _swap(rows: Floats, order: Ints, i: int, j: int) -> None:
    order[i], order[j] = order[j], order[i]
    for a in range(rows.shape[1]):
        rows[i, a], rows[j, a] = rows[j, a], rows[i, a]


@njit(cache=True)
def _select(rows: Floats, order: Ints, first: int, last: int, middle: int, a: int) -> None:
    """Move rows so that none before `middle` exceeds one from there on in dimension a (Hoare's quickselect)."""
    low, high = first, last - 1
    while low < high:
        # The middle row: scores that come sorted are no worst case.
        pivot = rows[(low + high) // 2, a]
        i, j = low, high
        while i <= j:
            while rows[i, a] < pivot:
                i += 1
            while rows[j, a] > pivot:
                j -= 1
            if i <= j:
                _swap(rows, order, i, j)
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return


@njit(cache=True)
def _first_with(keys: npt.NDArray[np.uint64], first: int, last: int, least: np.uint64) -> int:
    while first < last:
        middle = (first + last) // 2
        if keys[middle] < least:
            first = middle + 1
        else:
            last = middle
    return first


@njit(cache=True)
def _split(
    rows: Floats, order: Ints, keys: npt.NDArray[np.uint64], labels: Ints, first: int, last: int, box: Floats
) -> int:
    """Return where the second part begins; `first` for a node that stays whole."""
    if last - first <= LEAF_ROWS:
        return first
    differing = keys[first] ^ keys[last - 1]
    if differing != 0:
        # The highest bit in which first and last key differ; keys are sorted, so all rows from its first 1 on have it.
        bit = np.uint64(1)
        while differing > bit and (differing >> np.uint64(1)) >= bit:
            bit <<= np.uint64(1)
        return _first_with(keys, first, last, keys[last - 1] & ~(bit - np.uint64(1)))
    if labels[first] != labels[last - 1]:
        middle = (first + last) // 2
        # At the border of labels nearest below the middle, or else the first above it.
        while middle > first and labels[middle - 1] == labels[middle]:
            middle -= 1
        while middle == first or labels[middle - 1] == labels[middle]:
            middle += 1
        return middle
    _row_box(rows, first, last, box[0], box[1])
    widest = ZERO
    for a in range(1, rows.shape[1]):
        if box[1, a] - box[0, a] > box[1, widest] - box[0, widest]:
            widest = a
    # All rows are equal: no dimension splits them, and a leaf may be larger than LEAF_ROWS.
    if box[1, widest] == box[0, widest]:
        return first
    middle = (first + last) // 2
    _select(rows, order, first, last, middle, widest)
    return middle


@njit(cache=True)
def _grown(values: Ints) -> Ints:
    more = np.empty(2 * len(values), np.int64)
    for i in range(len(values)):
        more[i] = values[i]
    return more


@njit(cache=True)
def _structure(rows: Floats, order: Ints, keys: npt.NDArray[np.uint64], labels: Ints) -> tuple[Ints, Ints, Ints]:
    first, last, right = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64, np.int64)
    stack = np.empty((256, 3), np.int64)  # a split by code takes a bit, one by label or score halves: never so deep
    box = np.empty((2, rows.shape[1]), np.float32)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, len(rows), -1
    depth, nodes = 1, 0
    while depth > 0:
        depth -= 1
        low, high, parent = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        if nodes == len(first):
            first, last, right = _grown(first), _grown(last), _grown(right)
        first[nodes], last[nodes], right[nodes] = low, high, -1
        if parent >= 0:
            right[parent] = nodes
        middle = _split(rows, order, keys, labels, low, high, box)
        if middle > low:
            # The right part knows its parent, to be noted there; the left one is pushed last, and so numbered next.
            stack[depth, 0], stack[depth, 1], stack[depth, 2] = middle, high, nodes
            stack[depth + 1, 0], stack[depth + 1, 1], stack[depth + 1, 2] = low, middle, -1
            depth += 2
        nodes += 1
    return first[:nodes].copy(), last[:nodes].copy(), right[:nodes].copy()


@njit(cache=True)
def _boxes(
    rows: Floats, labels: Ints, first: Ints, last: Ints, right: Ints, label: Ints, low: Floats, high: Floats
) -> None:
    for node in range(len(first) - 1, -1, -1):  # children come after their parent
        if right[node] < 0:
            _row_box(rows, first[node], last[node], low[node], high[node])
            label[node] = labels[first[node]]
            for row in range(first[node], last[node]):
                if labels[row] != label[node]:
                    label[node] = MIXED
        else:
            one, two = node + 1, right[node]
            for a in range(rows.shape[1]):
                low[node, a] = min(low[one, a], low[two, a])
                high[node, a] = max(high[one, a], high[two, a])
            label[node] = label[one] if label[one] == label[two] else MIXED


def build(rows: Floats, order: Ints, keys: npt.NDArray[np.uint64], labels: Ints) -> ScoreTree:
    """Build the tree, in O(M A log M) time and O(M A) memory.

    Args:
        rows: [M,A], M >= 1, sorted by key and label; rows of one key and label change places.
        order: [M], changes places along with the rows.
        keys: [M], ascending.
        labels: [M], ascending within a key.
    """
    first, last, right = _structure(rows, order, keys, labels)
    shape = (len(first), rows.shape[1])
    tree: dict[str, Any] = {"low": np.empty(shape, np.float32), "high": np.empty(shape, np.float32)}
    label = np.empty(len(first), np.int64)
    _boxes(rows, labels, first, last, right, label, tree["low"], tree["high"])
    return ScoreTree(first, last, right, label, tree["low"], tree["high"])
