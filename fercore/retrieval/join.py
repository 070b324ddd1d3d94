"""Exact join of two domains by code, in time and memory that grow with the rows, never with their product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fercore.ops import dispatch
from fercore.retrieval.codes import Keys, check_keys

Rows = npt.NDArray[np.int64]
Parts = tuple[Rows, Rows, Rows]


@dataclass(frozen=True, eq=False)
class CodeJoin:
    """Which rows of two sides share a code. Arrays are read, not written.

    `source_order[start[j]:stop[j]]` are the source rows with the code of target row j, in ascending order. What looks
    the other way (`target_order`, `source_ranges`) or at whole codes (`codes`, offsets) is computed when first asked
    for.
    """

    source_keys: Keys
    """[N]"""
    target_keys: Keys
    """[M]"""
    source_order: Rows
    """[N] source rows sorted by code, rows of one code ascending"""
    start: Rows
    """[M] where the matches of a target row begin in `source_order`"""
    stop: Rows
    """[M] where they end; equal to `start` for a target row without a match"""

    @cached_property
    def counts(self) -> Rows:
        """[M] how many source rows share the code of a target row."""
        return self.stop - self.start

    @cached_property
    def matched(self) -> npt.NDArray[np.bool_]:
        """[M] whether a target row shares its code with any source row."""
        return self.stop > self.start

    @cached_property
    def swapped(self) -> CodeJoin:
        """The same join with source and target exchanged."""
        return join_codes(self.target_keys, self.source_keys)

    @property
    def target_order(self) -> Rows:
        """[M] target rows sorted by code, rows of one code ascending."""
        return self.swapped.source_order

    @property
    def target_ranges(self) -> tuple[Rows, Rows]:
        """[M], [M] for each target row, the range of its matches in `source_order`."""
        return self.start, self.stop

    @property
    def source_ranges(self) -> tuple[Rows, Rows]:
        """[N], [N] for each source row, the range of its matches in `target_order`."""
        return self.swapped.start, self.swapped.stop

    @cached_property
    def codes(self) -> Keys:
        """[G] the distinct codes of both sides, ascending."""
        return np.union1d(
            _distinct(self.source_keys, self.source_order), _distinct(self.target_keys, self.target_order)
        )

    @cached_property
    def source_offsets(self) -> Rows:
        """[G+1] where each code's rows begin in `source_order`."""
        return _offsets(self.codes, self.source_keys, self.source_order)

    @cached_property
    def target_offsets(self) -> Rows:
        """[G+1] where each code's rows begin in `target_order`."""
        return _offsets(self.codes, self.target_keys, self.target_order)

    @cached_property
    def source_groups(self) -> Rows:
        """[N] the place of a source row's code in `codes`."""
        return _spread(self.source_offsets, self.source_order)

    @cached_property
    def target_groups(self) -> Rows:
        """[M] the place of a target row's code in `codes`."""
        return _spread(self.target_offsets, self.target_order)

    def source_rows(self, target_row: int) -> Rows:
        """Return the source rows that match one target row, ascending."""
        return self.source_order[self.start[target_row] : self.stop[target_row]]

    def target_rows(self, source_row: int) -> Rows:
        """Return the target rows that match one source row, ascending."""
        return self.swapped.source_rows(source_row)


def join_codes(source_keys: npt.ArrayLike, target_keys: npt.ArrayLike) -> CodeJoin:
    """Join two sides by equal keys, in O(N+M) time and memory.

    Runs in C++ (a table addressed by the code where codes span at most 20 bits, a radix sort else); with NumPy, in
    O((N+M) log N), where the compiled module is not to be had and FERCORE_REQUIRE_EXT does not forbid it.

    Args:
        source_keys: uint64 [N] from `code_keys`; may be empty.
        target_keys: uint64 [M] from the same call, or of codes up to 64 bits.

    Raises:
        ValueError: keys that are not uint64 vectors.
        fercore.ops.ExtensionRequiredError: FERCORE_REQUIRE_EXT=1, and no compiled module.
    """
    source, target = check_keys(source_keys, "source_keys"), check_keys(target_keys, "target_keys")
    module = dispatch.native()
    join: Callable[[Keys, Keys], Parts] = join_reference if module is None else module.join_codes
    return CodeJoin(source, target, *join(source, target))


def join_reference(source: Keys, target: Keys) -> Parts:
    """Return order [N], start [M], stop [M] by sorting with NumPy; where nothing matches, start equals stop."""
    # Stable: rows of one code stay ascending, which the compiled join promises too.
    order = np.argsort(source, kind="stable").astype(np.int64, copy=False)
    ordered = source[order]
    start = np.searchsorted(ordered, target, side="left").astype(np.int64, copy=False)
    stop = np.searchsorted(ordered, target, side="right").astype(np.int64, copy=False)
    return order, start, stop


def _distinct(keys: Keys, order: Rows) -> Keys:
    # Keys are sorted already: comparing neighbours spares np.unique's sort.
    ordered = keys[order]
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def _offsets(codes: Keys, keys: Keys, order: Rows) -> Rows:
    # A code that this side lacks begins where the next one does: an empty range.
    return np.append(np.searchsorted(keys[order], codes), len(keys)).astype(np.int64)


def _spread(offsets: Rows, order: Rows) -> Rows:
    groups = np.empty(len(order), np.int64)
    groups[order] = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return groups
