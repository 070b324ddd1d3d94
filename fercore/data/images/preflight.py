"""The preflight: look at every image of a table before training and name those that cannot or should not be used."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fercore.data.cache.digests import DigestMemo
from fercore.data.cache.files import FileBacked
from fercore.data.images.codecs import Unusable
from fercore.data.images.readers import Reader
from fercore.data.table import Table
from fercore.isolation import can_fork, share_out
from fercore.records.data import PreflightReport

NAMED = 20
"""Files of a kind that a report names; the rest is counted."""


@dataclass(frozen=True)
class Preflight:
    """What is wrong with a table's images.

    Attributes:
        n: images looked at.
        unusable: (key, reason) of images that cannot be read: empty, truncated, not an image, too large.
        duplicates: groups of keys with one content and one label.
        mislabelled: groups of keys with one content and several labels.
        usable: positions in the table of images that can be read.
        conflicting: positions in the table of all images in a `mislabelled` group.
        digests: position -> hash of the content, "" where unusable.
    """

    n: int
    unusable: tuple[tuple[str, str], ...] = ()
    duplicates: tuple[tuple[str, ...], ...] = ()
    mislabelled: tuple[tuple[str, ...], ...] = ()
    usable: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    conflicting: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    digests: tuple[str, ...] = ()

    def report(self) -> PreflightReport:
        """Return counts and the first few names of each kind, as JSON values."""
        return {
            "checked": self.n,
            "unusable": len(self.unusable),
            "unusable_files": [list(item) for item in self.unusable[:NAMED]],
            "duplicate_groups": len(self.duplicates),
            "duplicate_files": [list(group) for group in self.duplicates[:NAMED]],
            "mislabelled_groups": len(self.mislabelled),
            "mislabelled_files": [list(group) for group in self.mislabelled[:NAMED]],
        }


def inspect(table: Table, memory: Path | None = None) -> Preflight:
    """Decode and hash every image of a table.

    Files are decoded to the last pixel, except that a header which claims too many pixels is refused unread.
    Generated images are taken as they are.

    Args:
        table: the images.
        memory: folder where what was found of files is remembered; files that have not changed are not decoded again.

    Returns:
        what was found; nothing is written, and the table stays as it is.
    """
    n = len(table)
    if table.reader.checked:
        return Preflight(n, usable=np.arange(n), digests=tuple(map(table.reader.digest, table.rows.tolist())))
    digest_faults = _found(table.reader, table.rows.tolist(), memory)
    unusable = tuple((table.keys[i], fault) for i, (_, fault) in enumerate(digest_faults) if fault)
    usable = np.array([i for i, (_, fault) in enumerate(digest_faults) if not fault], dtype=np.int64)
    same, differing = _group(table, [digest for digest, _ in digest_faults], usable)
    return Preflight(
        n=n,
        unusable=unusable,
        duplicates=tuple(tuple(table.keys[i] for i in group) for group in same),
        mislabelled=tuple(tuple(table.keys[i] for i in group) for group in differing),
        usable=usable,
        conflicting=np.array(sorted(i for group in differing for i in group), dtype=np.int64),
        digests=tuple(digest for digest, _ in digest_faults),
    )


def _found(reader: Reader, rows: list[int], memory: Path | None) -> list[tuple[str, str]]:
    """Return (digest, fault) of each row, from memory where that is good."""
    if memory is None or not isinstance(reader, FileBacked):
        return _digest_all(reader, rows)
    memo = DigestMemo(reader, memory)
    known = memo.known(rows)
    new = [row for row, digest in zip(rows, known, strict=True) if not digest]
    # Before decoding, so that a file changed meanwhile is looked at again next time.
    before = memo.stamps(new)
    fresh = _digest_all(reader, new)
    if new:
        memo.remember(new, [digest for digest, _ in fresh], before)
    rest = iter(fresh)
    return [(digest, "") if digest else next(rest) for digest in known]


def _digest_all(reader: Reader, rows: list[int]) -> list[tuple[str, str]]:
    """Return (digest, fault) of each row; many rows are shared out to forked processes, one a core."""
    count = min(8, os.cpu_count() or 1, len(rows) // FORKED)
    if count < 2 or not can_fork():
        return [_look(reader, row) for row in rows]
    # Threads would wait for one another: on small images most of the work is Python's. The reader is inherited.
    parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
    results = dict(share_out(_look_at, parts, count, _inherit, reader, fork=True))
    return [item for k in range(len(parts)) for item in results[k]]


FORKED, PART = 512, 64
"""Rows that are worth a process of their own, and those it is handed at a time."""
# Set in each forked process: handing the reader over with every part would pickle all its paths.
_READER: list[Reader] = []


def _inherit(reader: Reader) -> None:
    _READER[:] = [reader]


def _look_at(rows: list[int]) -> list[tuple[str, str]]:
    return [_look(_READER[0], row) for row in rows]


def _look(reader: Reader, row: int) -> tuple[str, str]:
    try:
        return reader.digest(row), ""
    except Unusable as error:
        return "", str(error)


def _group(table: Table, digests: list[str], usable: np.ndarray) -> tuple[list[list[int]], list[list[int]]]:
    """Return groups of positions with one content: (with one label, with several labels)."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i in usable.tolist():
        groups[digests[i]].append(i)
    same: list[list[int]] = []
    differing: list[list[int]] = []
    for group in groups.values():
        if len(group) > 1:
            # An unlabelled copy contradicts nobody.
            labels = {int(table.labels[i]) for i in group} - {-1}
            (differing if len(labels) > 1 else same).append(group)
    return same, differing
