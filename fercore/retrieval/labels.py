"""Labels carried over by code: class histograms, majorities and matches of target rows among source rows.

Primitives of the AU-guided annotation of AdaFER ("AU-Guided Unsupervised Domain Adaptive Facial Expression
Recognition", 2020, section 3.3): S-hard (Eq 1) takes one match's label, T-hard (Eq 2) the majority, T-soft the
histogram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fercore.retrieval.au_index import AUIndex, Matches, check_distance
from fercore.retrieval.codes import check_codes
from fercore.retrieval.join import CodeJoin
from fercore.retrieval.rng import draw_below

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Neighbours:
    """For each code of a join, the codes of source rows that count as its match: `codes[offsets[g]:offsets[g + 1]]`."""

    offsets: Ints
    """[G+1] over `CodeJoin.codes`"""
    codes: Ints
    """[total] places in `CodeJoin.codes`"""


def neighbour_codes(
    join: CodeJoin,
    source_codes: npt.ArrayLike,
    target_codes: npt.ArrayLike,
    *,
    radius: int = 0,
    nearest: bool = False,
) -> Neighbours:
    """Widen an exact join to codes within a Hamming distance. Distinct codes are compared, not rows.

    At radius 0 only codes without an equal one are compared with all source codes, and only for `nearest`.

    Args:
        join: of the keys of these codes.
        source_codes: uint8 [N,bytes] from `pack_codes`.
        target_codes: uint8 [M,bytes].
        radius: Hamming distance in bits, inclusive.
        nearest: a code without a match within the radius takes the nearest source codes, all of them if several are
            equally near.

    Raises:
        ValueError: codes that do not fit the join, or a radius that is no integer or negative.
    """
    source, target = check_codes(source_codes), check_codes(target_codes)
    if (len(source), len(target)) != (len(join.source_keys), len(join.target_keys)):
        raise ValueError("the codes have other numbers of rows than the join")
    in_source = np.flatnonzero(np.diff(join.source_offsets))
    in_target = np.flatnonzero(np.diff(join.target_offsets))
    index = AUIndex(source[join.source_order[join.source_offsets[in_source]]])
    queries = target[join.target_order[join.target_offsets[in_target]]]
    matches = index.radius(queries, radius) if check_distance(radius) else index.exact(queries)
    if nearest and len(in_source):
        matches = _or_nearest(index, queries, matches)
    counts = np.zeros(len(join.codes), np.int64)
    counts[in_target] = np.diff(matches.offsets)
    return Neighbours(np.append(0, np.cumsum(counts)), in_source[matches.rows])


def code_histogram(
    join: CodeJoin, source_labels: npt.ArrayLike, num_classes: int, *, neighbours: Neighbours | None = None
) -> tuple[npt.NDArray[np.float64], Mask]:
    """Return the class histogram of the source rows that match each target row (T-soft).

    Args:
        join: source and target codes.
        source_labels: int [N] in 0..num_classes-1.
        num_classes: K.
        neighbours: matches wider than equal codes.

    Returns:
        q [M,K], rows summing to 1, zero where nothing matches; bool [M], where something does.

    Raises:
        ValueError: labels of another length or outside the classes.
    """
    labels = _check_labels(source_labels, len(join.source_keys), num_classes)
    # Group and class in one number: a two-dimensional histogram by one count.
    flat = np.bincount(join.source_groups * num_classes + labels, minlength=len(join.codes) * num_classes)
    counts = flat.reshape(len(join.codes), num_classes)
    if neighbours is not None:
        # Differences of running sums, in integers and so exact: every range of neighbours is added without a loop.
        sums = np.vstack([np.zeros((1, num_classes), np.int64), np.cumsum(counts[neighbours.codes], axis=0)])
        counts = sums[neighbours.offsets[1:]] - sums[neighbours.offsets[:-1]]
    totals = counts.sum(axis=1)
    q = (counts / np.maximum(totals, 1)[:, None])[join.target_groups]
    return q, totals[join.target_groups] > 0


def majority(q: npt.NDArray[np.floating], matched: Mask) -> Ints:
    """Return the most frequent class [M] of q [M,K] (T-hard), the smallest of equals, -1 where nothing matches."""
    if q.ndim != 2 or matched.shape != q.shape[:1]:
        raise ValueError(f"q must be [M,K] and matched [M], got {list(q.shape)} and {list(matched.shape)}")
    return np.where(matched, q.argmax(axis=1), -1)


def random_match(join: CodeJoin, seed: int, *, neighbours: Neighbours | None = None) -> Ints:
    """Return for each target row one of its source rows [M], each as likely as the others, -1 where there is none."""
    if neighbours is None:
        drawn = draw_below(seed, join.counts)
        some = drawn >= 0
        rows = np.full(len(drawn), -1, np.int64)
        rows[some] = join.source_order[(join.start + drawn)[some]]
        return rows
    # Matches of one target lie in several codes: a place among all
    # of them is drawn, and then looked up in which code it falls.
    ends = np.cumsum(np.diff(join.source_offsets)[neighbours.codes])
    ends = np.append(0, ends)
    first, last = (ends[bound][join.target_groups] for bound in (neighbours.offsets[:-1], neighbours.offsets[1:]))
    drawn = draw_below(seed, last - first)
    some = drawn >= 0
    place = (first + drawn)[some]
    edge = np.searchsorted(ends, place, side="right") - 1
    rows = np.full(len(drawn), -1, np.int64)
    rows[some] = join.source_order[join.source_offsets[neighbours.codes[edge]] + place - ends[edge]]
    return rows


def last_match(join: CodeJoin, *, neighbours: Neighbours | None = None) -> Ints:
    """Return for each target row the last of its source rows [M], in the source's order; -1 where there is none."""
    in_code = np.full(len(join.codes), -1, np.int64)
    some = np.diff(join.source_offsets) > 0
    in_code[some] = join.source_order[join.source_offsets[1:][some] - 1]
    if neighbours is None:
        return in_code[join.target_groups]
    best = np.full(len(join.codes), -1, np.int64)
    # Unbuffered: several codes may raise the same entry.
    np.maximum.at(best, np.repeat(np.arange(len(best)), np.diff(neighbours.offsets)), in_code[neighbours.codes])
    return best[join.target_groups]


def _or_nearest(index: AUIndex, queries: npt.NDArray[np.uint8], matches: Matches) -> Matches:
    counts = np.diff(matches.offsets)
    alone = np.flatnonzero(counts == 0)
    if not len(alone):
        return matches
    distance = index.nearest(queries[alone], 1)[0][:, 0]
    rows: dict[int, Matches] = {}
    for d in np.unique(distance):  # few: a distance is at most the number of bits
        rows[int(d)] = index.radius(queries[alone[distance == d]], int(d))
    owner, far = [np.repeat(np.arange(len(queries)), counts)], [matches.rows]
    spans = [matches.distances]
    for d, match in rows.items():
        owner.append(np.repeat(alone[distance == d], np.diff(match.offsets)))
        far.append(match.rows)
        spans.append(match.distances)
    owners = np.concatenate(owner)
    # Stable: matches of one query stay nearest first.
    order = np.argsort(owners, kind="stable")
    offsets = np.append(0, np.cumsum(np.bincount(owners, minlength=len(queries))))
    return Matches(offsets, np.concatenate(far)[order], np.concatenate(spans)[order])


def _check_labels(labels: npt.ArrayLike, rows: int, num_classes: int) -> Ints:
    array = np.asarray(labels)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(f"source_labels must be int [{rows}], got {array.dtype} {list(array.shape)}")
    if rows and not (0 <= array.min() and array.max() < num_classes):
        raise ValueError(f"source_labels must lie in 0..{num_classes - 1}, got {array.min()}..{array.max()}")
    return array.astype(np.int64, copy=False)
