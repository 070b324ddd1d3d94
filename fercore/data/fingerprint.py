"""Fingerprints of a run's data: has anything changed since the run began?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from fercore.data.table import Table


def part_fingerprint(table: Table, content: Mapping[int, str], resolved: str = "") -> dict[str, Any]:
    """Return {"n": samples, "sha256": hash of names, contents, labels and subjects, in their order}.

    Args:
        table: one part of a domain, with its own keys and labels. What all keys begin with does not count: a dataset
            that has been moved is the same data.
        content: row of the reader -> hash of its content.
        resolved: for generated data, the options that decide the pixels.
    """
    start = len(common_folder(table.keys))
    part_hash = hashlib.sha256(resolved.encode())
    columns = (table.keys, table.rows.tolist(), table.labels.tolist(), table.subjects)
    for key, row, label, subject in zip(*columns, strict=True):
        # JSON, and not joined text: it says where one field ends.
        part_hash.update(json.dumps([key[start:], content[row], label, subject]).encode())
    return {"n": len(table), "sha256": part_hash.hexdigest()}


def units_fingerprint(table: Table) -> str:
    """Return a hash of a part's action units (the extras "au" and "au_code"), or "" if it has none."""
    if "au" not in table.extras:
        return ""
    # A fixed byte order and width: the hash is the same on every machine.
    units_hash = hashlib.sha256(np.ascontiguousarray(table.extras["au"], dtype="<f4").tobytes())
    units_hash.update(np.ascontiguousarray(table.extras["au_code"], dtype=np.uint8).tobytes())
    return units_hash.hexdigest()


def common_folder(keys: tuple[str, ...]) -> str:
    """Return the folder that all keys begin with, its last separator included, or ""."""
    if not keys:
        return ""
    # What the smallest and the largest key share, all keys between them share.
    first, last = min(keys), max(keys)
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(min(first, last)))
    return first[: max(first.rfind(mark, 0, shared) for mark in "/\\") + 1]
