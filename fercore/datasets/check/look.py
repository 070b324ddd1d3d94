"""What `data check` sees of a dataset: every image's content hash, thumbnail, or the reason it cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fercore.data.domains.domain_set import read_chosen
from fercore.data.formats.reading.scan import Scan
from fercore.data.images.codecs import Unusable
from fercore.data.images.readers import Reader
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.datasets.check.near import SIDE, thumbnail

Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


@dataclass(frozen=True)
class Seen:
    """A dataset whose images have all been looked at.

    Attributes:
        spec, table, scan: what was read. digests: hash of each image's content, "" where unusable.
        faults: reason of each unusable image, "" otherwise. thumbs: uint8[n,32,32], black where unusable.
    """

    spec: DomainSpec
    table: Table
    scan: Scan
    digests: tuple[str, ...]
    faults: tuple[str, ...]
    thumbs: np.ndarray

    def __len__(self) -> int:
        return len(self.table)


def look(spec: DomainSpec, progress: Progress | None = None) -> Seen:
    """Read a dataset and decode every image once.

    Raises:
        UserInputError: as the format's `scan`. Images that cannot be used are no error; they are what is looked for.
    """
    table, scan = read_chosen(spec)
    digests, faults = [], []
    thumbs = np.zeros((len(table), SIDE, SIDE), dtype=np.uint8)
    for i, (digest, fault, thumb) in enumerate(_all(table)):
        digests.append(digest)
        faults.append(fault)
        if thumb is not None:
            thumbs[i] = thumb
        if progress is not None and (i % 64 == 63 or i + 1 == len(table)):
            progress(i + 1, len(table))
    return Seen(spec, table, scan, tuple(digests), tuple(faults), thumbs)


Glance = tuple[str, str, np.ndarray | None]


def _all(table: Table) -> Iterator[Glance]:
    reader, rows = table.reader, table.rows.tolist()
    if reader.checked:
        for row, image in zip(rows, reader.read_many(rows), strict=True):
            yield reader.digest(row), "", thumbnail(image)
        return
    # Threads: hashing and decoding run outside Python's lock, and results come in order.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda row: _glance(reader, row), rows)


def _glance(reader: Reader, row: int) -> Glance:
    try:
        return reader.digest(row), "", thumbnail(reader.read(row))
    except (Unusable, ValueError) as error:  # UserInputError is a ValueError: the file changed between two readings
        return "", str(error), None
