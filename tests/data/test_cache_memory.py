"""The cache in memory: as large as it may become and no larger, whatever the dataset's size."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import pytest

from fercore.config import DataSettings
from fercore.data.cache import stores as cache
from fercore.data.images.readers import ArrayReader
from fercore.data.table import Table
from fercore.errors import UserInputError


@dataclass(frozen=True, eq=False)
class Endless:
    """A reader of more images than any memory holds: image i is all of grey level i % 251."""

    rows: int
    checked: bool = True

    def __len__(self) -> int:
        return self.rows

    def read(self, row: int) -> np.ndarray:
        return np.full((8, 8, 3), row % 251, dtype=np.uint8)

    def read_many(self, rows):
        return map(self.read, rows)

    def digest(self, row: int) -> str:
        return str(row)


@pytest.fixture(autouse=True)
def no_other_stores(monkeypatch):
    """The cap is over all stores in use; those of other tests' datasets, not yet collected, are none of ours."""
    monkeypatch.setattr(cache, "_STORES", WeakKeyDictionary())


def table(reader, rows: np.ndarray) -> Table:
    n = len(rows)
    blank = ("",) * n
    zeros = np.zeros(n, dtype=np.int64)
    return Table("t", "t", tuple(map(str, rows)), zeros, blank, blank, blank, reader, rows, zeros)


def test_a_dataset_far_larger_than_memory_needs_only_the_cap():
    rows = np.arange(0, 5_000_000, 10_000)
    data = table(Endless(5_000_000), rows)  # 753 GB at this size
    settings = DataSettings(size=224, cache_mb=16)
    cache.reserve([data], settings)
    at = np.arange(len(rows))[::3]
    for _ in range(2):
        assert (cache.fetch(data, at, settings)[:, 0, 5, 5] == rows[at] % 251).all()
    store = cache._STORES[data.reader]
    assert store.filled.sum() == (at < store.reserved).sum() > 0
    assert store.data.nbytes <= 16 * cache.MIB


def test_no_cache_at_all():
    rows = np.arange(5)
    data, settings = table(Endless(5), rows), DataSettings(size=16, cache_mb=0)
    cache.reserve([data], settings)
    assert (cache.fetch(data, rows, settings)[:, 0, 0, 0] == rows).all()
    assert cache._STORES[data.reader].filled.sum() == 0


def test_a_larger_cap_is_taken_up():
    images = np.arange(64, dtype=np.uint8).reshape(64, 1, 1).repeat(128, 1).repeat(128, 2)
    data = table(ArrayReader(images), np.arange(64))
    for cap, held in ((1, 21), (4, 64)):
        settings = DataSettings(size=128, cache_mb=cap)
        cache.reserve([data], settings)
        cache.fetch(data, np.arange(64), settings)
        assert int(cache._STORES[data.reader].filled.sum()) == held


def test_memory_that_the_system_refuses():
    data = table(Endless(10**9), np.arange(3))
    with pytest.raises(UserInputError, match="no room in memory for .* MiB of images: .*data.cache_mb.*; lower it"):
        cache.reserve([data], DataSettings(size=224, cache_mb=10**8))
