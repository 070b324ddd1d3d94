"""Tables: one part of a domain as columns, without pixels in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fercore.data.images.readers import Reader

OBSERVED_EXTRAS: frozenset[str] = frozenset({"au_scores", "au", "au_code"})
"""Extras that come from the image alone (a detector): an unlabelled table keeps them and drops all others."""


@dataclass(frozen=True, eq=False)
class Table:
    """Samples of one part of a domain.

    Attributes:
        name: what reports call the domain.
        spec: the spec as it was written.
        keys: a name for each sample: file path, or "fer2013.csv#17"; opaque once labels are taken off.
        labels: int64[n], canonical or of the run's classes; -1 = unknown.
        subjects, sequences: "" = unknown.
        split: "train", "val", "test" or "".
        extras: name -> array[n,...]. au: who says which action units it shows, as the spec names them; "" = nobody.
        domain: int64[n], 0 but for tables of several domains.
        reader, rows: where the pixels are: sample i is row rows[i] of the reader.
    """

    name: str
    spec: str
    keys: tuple[str, ...]
    labels: np.ndarray
    subjects: tuple[str, ...]
    sequences: tuple[str, ...]
    split: tuple[str, ...]
    reader: Reader
    rows: np.ndarray
    domain: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    au: str = ""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.read(i)

    def read(self, i: int) -> np.ndarray:
        """Return image i as uint8[H,W,3], RGB.

        Raises:
            UserInputError: if it has become unreadable.
        """
        return self.reader.read(int(self.rows[i]))

    def read_many(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield several images, in order."""
        return self.reader.read_many([int(self.rows[i]) for i in indices])

    def subset(self, indices: Sequence[int] | np.ndarray) -> Table:
        """Return a table of some of the samples, in the order given."""
        at = np.asarray(indices, dtype=np.int64).reshape(-1)

        def pick(column: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(column[i] for i in at.tolist())

        return replace(
            self,
            keys=pick(self.keys),
            labels=self.labels[at],
            subjects=pick(self.subjects),
            sequences=pick(self.sequences),
            split=pick(self.split),
            rows=self.rows[at],
            domain=self.domain[at],
            extras={name: values[at] for name, values in self.extras.items()},
        )

    def with_labels(self, labels: np.ndarray) -> Table:
        """Return the same samples with other labels."""
        return replace(self, labels=np.asarray(labels, dtype=np.int64))

    def without_labels(self) -> Table:
        """Return the same samples with all that tells their class taken off.

        Labels become -1, extras that are annotations go, and keys (paths with class folders) become opaque names.
        """
        return replace(
            self,
            keys=tuple(opaque(key) for key in self.keys),
            labels=np.full(len(self), -1, dtype=np.int64),
            # A sequence's name holds the class in many datasets; its hash still says which frames belong together.
            sequences=tuple(opaque(name) if name else "" for name in self.sequences),
            extras={name: values for name, values in self.extras.items() if name in OBSERVED_EXTRAS},
        )

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Return class name -> samples, for the classes that have any."""
        per_class = np.bincount(self.labels[self.labels >= 0], minlength=len(classes))
        return {name: int(n) for name, n in zip(classes, per_class, strict=False) if n}


def opaque(key: str) -> str:
    """Return a short hash of a key: equal for equal keys, and silent about the class folder in a path."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True, eq=False)
class JoinedReader:
    """Readers one after another."""

    readers: tuple[Reader, ...]
    checked: bool = True

    def __len__(self) -> int:
        return sum(len(reader) for reader in self.readers)

    def locate(self, row: int) -> tuple[Reader, int]:
        """Return the reader a row belongs to, and the row in it."""
        for reader in self.readers:
            if row < len(reader):
                return reader, row
            row -= len(reader)
        raise IndexError(row)

    def read(self, row: int) -> np.ndarray:
        """Return uint8[H,W,3], RGB."""
        reader, inner = self.locate(row)
        return reader.read(inner)

    def read_many(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the images of several rows, in order."""
        for row in rows:
            yield self.read(row)

    def digest(self, row: int) -> str:
        """Return the hash of a row's content."""
        reader, inner = self.locate(row)
        return reader.digest(inner)


def join(tables: Sequence[Table]) -> Table:
    """Return one table of several, or of none; `domain` numbers them, and extras that all of them have are kept."""
    # Rows of the joined reader: those of each part, moved by the readers
    # before it (readers, not tables: a table may be a part of its reader).
    starts = np.cumsum([0, *(len(table.reader) for table in tables)])
    shared = set.intersection(*(set(table.extras) for table in tables)) if tables else set[str]()
    none = np.zeros(0, dtype=np.int64)
    column: Any = lambda name: tuple(value for table in tables for value in getattr(table, name))  # noqa: E731
    return Table(
        name="+".join(table.name for table in tables),
        spec=" ".join(table.spec for table in tables),
        keys=column("keys"),
        labels=np.concatenate([none, *(table.labels for table in tables)]),
        subjects=column("subjects"),
        sequences=column("sequences"),
        split=column("split"),
        reader=JoinedReader(tuple(table.reader for table in tables)),
        rows=np.concatenate([none, *(table.rows + start for table, start in zip(tables, starts[:-1], strict=True))]),
        domain=np.concatenate([none, *(np.full(len(table), d, dtype=np.int64) for d, table in enumerate(tables))]),
        extras={name: np.concatenate([table.extras[name] for table in tables]) for name in sorted(shared)},
    )
