"""Triplets mined by action units: a positive with the anchor's code, a hard negative with another one.

After "AU-Guided Unsupervised Domain Adaptive Facial Expression Recognition" (AdaFER, 2020), section 3.4: positive and
negative come from the other domain, and negatives are as similar to the anchor in AU scores as tau_n asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from fercore.retrieval import draw as compiled
from fercore.retrieval import score_tree
from fercore.retrieval.codes import Keys, check_keys, check_numbers
from fercore.retrieval.join import CodeJoin, join_codes
from fercore.retrieval.rng import MAX_ROWS, seed_bits
from fercore.retrieval.threads import kept_threads

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Similarity = Literal["cosine", "one_minus_l1"]
Exclude = tuple[npt.ArrayLike, npt.ArrayLike]
_NO_LABEL, _ANY_LABEL = -1, -2


@dataclass(frozen=True, eq=False)
class Triplets:
    """T triplets in ascending order of their anchors, at most one an anchor, and what became of the other anchors."""

    anchor: Ints
    """[T] rows of the anchors' domain"""
    positive: Ints
    """[T] rows of the other domain, with the anchor's code"""
    negative: Ints
    """[T] rows of the other domain, with another code"""
    fell_back: npt.NDArray[np.bool_]
    """[T] whether no negative passed tau_n and the most similar one was taken"""
    without_positive: int
    """anchors whose code the other domain lacks: no triplet"""
    without_negative: int
    """anchors for which the other domain has no image of another code (and class, where classes are excluded): none"""

    def __len__(self) -> int:
        return len(self.anchor)

    @property
    def fallbacks(self) -> int:
        """How many triplets took the most similar negative because none passed."""
        return int(self.fell_back.sum())


def au_similarity(first: npt.ArrayLike, second: npt.ArrayLike, similarity: Similarity = "cosine") -> Floats:
    """Return the similarity of AU scores row by row.

    Args:
        first: float [T,A] in [0,1].
        second: float [T,A].
        similarity: "cosine", 0 where a row is all zero; or "one_minus_l1" = 1 - mean over A of |first - second|.

    Returns:
        float32 [T] in [0,1].
    """
    measure = _measure(similarity)
    a, b = _scores(first, "first"), _scores(second, "second")
    if a.shape != b.shape:
        raise ValueError(f"scores have the shapes {list(a.shape)} and {list(b.shape)}")
    if measure == compiled.COSINE:
        return np.asarray((_unit(a) * _unit(b)).sum(axis=1), np.float32)
    return np.asarray(1 - np.abs(a - b).mean(axis=1), np.float32)


@kept_threads()
def mine_triplets(
    anchor_scores: npt.ArrayLike,
    anchor_keys: npt.ArrayLike,
    other_scores: npt.ArrayLike,
    other_keys: npt.ArrayLike,
    *,
    similarity: Similarity = "cosine",
    tau_n: float = 0.5,
    seed: int = 0,
    exclude: Exclude | None = None,
) -> Triplets:
    """Draw one triplet for every anchor that has a positive and a negative in the other domain.

    The positive is uniform among the rows with the anchor's code, the negative uniform among the rows with another
    code and a similarity above tau_n; where none passes, it is the most similar row with another code (uniform among
    equals). Similarities are float32: a negative within 1e-6 of tau_n may fall on either side.

    The draw depends on the seed alone, not on the number of threads. Memory O((N + M) A). Time: the join, and for each
    anchor 1/p tries where a share p of the candidates passes; an anchor without a hit in 64 tries is searched for
    exactly in a tree of boxes, O(log M + rows near the anchor or near tau_n's border), built in O(M A log M). The worst
    case, scores without any structure and a tau_n that nearly nothing passes, visits a good part of the M rows for each
    anchor, O(N M A), but never stores them.

    Args:
        anchor_scores: float [N,A] in [0,1].
        anchor_keys: uint64 [N], codes of the anchors, from `code_keys`.
        other_scores: float [M,A] of the other domain.
        other_keys: uint64 [M].
        similarity: of AU scores, as in `au_similarity`.
        tau_n: negatives lie strictly above it.
        seed: any integer.
        exclude: integer labels ([N], [M]): a negative must not have the anchor's label; -1 = unknown, excludes nothing.

    Raises:
        ValueError: shapes that do not fit, scores that are NaN or outside [0,1], an unknown similarity.
    """
    measure = _measure(similarity)
    anchors, others = _scores(anchor_scores, "anchor_scores"), _scores(other_scores, "other_scores")
    a_keys, o_keys = check_keys(anchor_keys, "anchor_keys"), check_keys(other_keys, "other_keys")
    _check_sizes(anchors, a_keys, others, o_keys)
    if not np.isfinite(tau_n):
        raise ValueError(f"tau_n must be finite, got {tau_n}")
    # The other domain is the join's source: each anchor gets its range of rows with the same code.
    join = join_codes(o_keys, a_keys)
    order, a_labels, o_labels, allowed = _labels(join, exclude)
    if measure == compiled.COSINE:
        anchors, others = _unit(anchors), _unit(others)
    # A copy sorted by code: an anchor's positives are one range, and the search below may move rows within it.
    rows, tau = np.ascontiguousarray(others[order]), np.float32(tau_n)
    positive, negative, state = (np.empty(len(anchors), np.int64) for _ in range(3))
    where = (anchors, a_labels, join.start, join.stop)
    bits = seed_bits(seed)
    compiled.draw(
        bits, measure, tau, compiled.TRIES, *where, allowed, rows, o_labels, positive, negative, state
    )  # fmt: skip
    # Back to the caller's rows before the tree is built, which reorders `rows` and `order` together.
    positive = np.where(positive >= 0, order[positive], -1) if len(order) else positive
    pending = np.flatnonzero((positive >= 0) & (allowed > 0) & (state == compiled.NOT_FOUND))
    drawn = np.flatnonzero(state != compiled.NOT_FOUND)
    negative[drawn] = order[negative[drawn]]
    if len(pending):
        pending = pending[np.argsort(join.start[pending], kind="stable")]  # neighbours take the same way in the tree
        tree = score_tree.build(rows, order, o_keys[order], o_labels)
        # After `build`, which has moved rows.
        columns = np.ascontiguousarray(rows.T)
        compiled.search(bits, measure, tau, pending, *where, columns, o_labels, tree, negative, state)
        negative[pending] = order[negative[pending]]
    matched = np.flatnonzero(state != compiled.NOT_FOUND)
    lonely = int((join.counts == 0).sum())
    return Triplets(
        anchor=matched,
        positive=positive[matched],
        negative=negative[matched],
        fell_back=state[matched] == compiled.FELL_BACK,
        without_positive=lonely,
        without_negative=len(anchors) - lonely - len(matched),
    )


def _labels(join: CodeJoin, exclude: Exclude | None) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the other side's order, labels of both sides, and how many rows each anchor may take as a negative."""
    others, anchors = len(join.source_keys), len(join.target_keys)
    free = others - join.counts
    if exclude is None:
        return join.source_order.copy(), np.full(anchors, _NO_LABEL), np.full(others, _ANY_LABEL), free
    a_labels, o_labels = (
        _check_labels(labels, rows, name)
        for labels, rows, name in zip(exclude, (anchors, others), ("anchors'", "others'"), strict=True)
    )
    names = np.unique(np.concatenate([a_labels, o_labels]))
    a_labels = np.where(a_labels < 0, _NO_LABEL, np.searchsorted(names, a_labels))
    o_labels = np.where(o_labels < 0, _ANY_LABEL, np.searchsorted(names, o_labels))
    # By label within a code: the tree then splits codes into ranges of one label.
    order = join.source_order[np.lexsort((o_labels[join.source_order], join.source_keys[join.source_order]))]
    begin = np.where(join.matched, join.start, -1)
    first = np.empty(others, np.int64)  # where the code of a row begins, which names the code
    ordered = join.source_keys[join.source_order]
    first[join.source_order] = np.searchsorted(ordered, ordered)
    # Labels lie in -2..len(names)-1 and codes from -1: with the offsets no pair collides or goes below zero.
    width = len(names) + 3
    both = join_codes(_pair(first, o_labels, width), _pair(begin, a_labels, width)).counts
    of_label = np.bincount(o_labels[o_labels >= 0], minlength=len(names) + 1)
    # Rows with the anchor's label, less those that its code has excluded already.
    taken = np.where(a_labels >= 0, of_label[a_labels] - both, 0)
    return order, a_labels, o_labels[order], free - taken


def _pair(first: Ints, labels: Ints, width: int) -> Keys:
    return ((first + 1) * width + labels + 2).astype(np.uint64)


def _check_labels(labels: npt.ArrayLike, rows: int, name: str) -> Ints:
    array = np.asarray(labels)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(f"the {name} labels to exclude must be int [{rows}], got {array.dtype} {list(array.shape)}")
    return array.astype(np.int64, copy=False)


def _measure(similarity: str) -> int:
    if similarity not in get_args(Similarity):
        raise ValueError(f"similarity must be one of {', '.join(get_args(Similarity))}, got {similarity!r}")
    return compiled.COSINE if similarity == "cosine" else compiled.ONE_MINUS_L1


def _scores(scores: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(scores)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{name} must be [rows,A] with A >= 1, got shape {list(array.shape)}")
    check_numbers(array, name)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"{name} must lie in [0,1], got {array.min()}..{array.max()}")
    return np.ascontiguousarray(array, np.float32)


def _check_sizes(anchors: Floats, anchor_keys: Keys, others: Floats, other_keys: Keys) -> None:
    if anchors.shape[1] != others.shape[1]:
        raise ValueError(f"anchors have {anchors.shape[1]} action units, the other domain {others.shape[1]}")
    for rows, keys, name in ((anchors, anchor_keys, "anchor"), (others, other_keys, "other")):
        if len(rows) != len(keys):
            raise ValueError(f"{name}_scores has {len(rows)} rows, {name}_keys {len(keys)}")
        if len(rows) > MAX_ROWS:
            raise ValueError(f"{name}_scores has more than {MAX_ROWS} rows")


def _unit(rows: Floats) -> Floats:
    # float64: the squares of small float32 scores would underflow.
    norms = np.sqrt(np.einsum("na,na->n", rows, rows, dtype=np.float64))[:, None]
    # An all-zero row stays zero, and its cosine with every row is 0.
    return np.asarray(rows / np.maximum(norms, 1e-12), np.float32)
