"""Decoded, resized images, kept in memory or on disk, shared by all tables of a domain and by worker processes."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from fercore.config import DataSettings
from fercore.data.cache.disk import DiskStore
from fercore.data.cache.files import FileBacked, cache_folder
from fercore.data.images.readers import Reader
from fercore.data.images.resize import fitted
from fercore.data.table import JoinedReader, Table
from fercore.errors import UserInputError

MIB = 2**20


class PixelStore:
    """Images of one reader at one size, decoded at first use and kept while there is room.

    The memory is a shared anonymous mapping: forked workers fill it for each other, and pages nobody wrote cost
    nothing. Two processes that decode the same image write the same bytes.

    Args:
        reader: where images come from. size: side in pixels. resize: "stretch" or "crop".
        cap: bytes that the images may ever take; a system refuses a mapping far beyond its memory, however empty.

    Raises:
        UserInputError: if the system refuses the memory.
    """

    def __init__(self, reader: Reader, size: int, resize: str, cap: int) -> None:
        self.size, self.resize, self.cap = size, resize, cap
        self.image_bytes = 3 * size * size
        most = min(len(reader), max(0, cap) // self.image_bytes)
        self.data = np.frombuffer(_memory(max(1, most * self.image_bytes)), dtype=np.uint8)
        self.data = self.data[: most * self.image_bytes].reshape(most, 3, size, size)
        self.slots = np.full(len(reader), -1, dtype=np.int64)
        self.reserved = 0
        # One more than there are slots: rows without a slot look at the last, which nobody fills.
        self.filled = np.frombuffer(mmap.mmap(-1, most + 1), dtype=np.uint8)

    def reserve(self, rows: np.ndarray, room: int) -> None:
        """Give a slot to those of the rows that have none, as far as `room` bytes go."""
        new = rows[self.slots[rows] < 0]
        room = min(room, (len(self.data) - self.reserved) * self.image_bytes)
        new = np.unique(new)[: max(0, room) // self.image_bytes]
        self.slots[new] = np.arange(self.reserved, self.reserved + len(new))
        self.reserved += len(new)

    def read(self, reader: Reader, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Write the images of `rows` to out[at], uint8[.,3,size,size]."""
        slots = self.slots[rows]
        # Slot -1 indexes the last entry, which is never set.
        ready = (slots >= 0) & (self.filled[slots] > 0)
        out[at[ready]] = self.data[slots[ready]]
        missing = np.flatnonzero(~ready)
        for i, image in zip(missing.tolist(), reader.read_many(rows[missing].tolist()), strict=True):
            pixels = fitted(image, self.size, self.resize)
            out[at[i]] = pixels
            if slots[i] >= 0:
                self.data[slots[i]] = pixels
                # After the pixels: another worker that sees the mark may read them.
                self.filled[slots[i]] = 1


def _memory(size: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, size)
    except OSError as error:
        what = f"no room in memory for {size // MIB} MiB of images: {error.strerror}"
        raise UserInputError(what, where="data.cache_mb", fix="lower it, or set data.cache=disk") from None


# Keyed by reader: all parts of a domain share one, and its images go when no table holds it any longer.
_STORES: WeakKeyDictionary[Reader, PixelStore | DiskStore] = WeakKeyDictionary()


def reserve(tables: Sequence[Table], settings: DataSettings) -> None:
    """Make room for the images of some tables, in order, within the cap over all that is in use.

    The cap is settings.cache_mb in memory and settings.cache_disk_mb on disk.

    Raises:
        UserInputError: if the cache folder cannot be made or written.
    """
    for table in tables:
        for reader, rows, _ in groups(table.reader, table.rows):
            store = _store(reader, settings)
            if isinstance(store, DiskStore):
                open_ones = [s for s in _STORES.values() if isinstance(s, DiskStore) and s.folder == store.folder]
                store.reserve(rows, [other for other in open_ones if other.path != store.path])
            else:
                memory = (s for s in _STORES.values() if isinstance(s, PixelStore))
                used = sum(other.reserved * other.image_bytes for other in memory)
                store.reserve(rows, settings.cache_mb * MIB - used)


def fetch(table: Table, at: np.ndarray, settings: DataSettings) -> np.ndarray:
    """Return some images of a table, resized: uint8[k,3,S,S].

    Args:
        table: where they come from. at: int64[k] positions in it. settings: size, resize.

    Raises:
        UserInputError: if an image has become unreadable.
    """
    out = np.empty((len(at), 3, settings.size, settings.size), dtype=np.uint8)
    for reader, rows, positions in groups(table.reader, table.rows[at]):
        _store(reader, settings).read(reader, rows, out, positions)
    return out


def groups(reader: Reader, rows: np.ndarray) -> Iterator[tuple[Reader, np.ndarray, np.ndarray]]:
    """Yield (reader, its rows, their positions in `rows`) for each part of a joined reader."""
    if not isinstance(reader, JoinedReader):
        yield reader, rows, np.arange(len(rows))
        return
    start = 0
    for part in reader.readers:
        positions = np.flatnonzero((rows >= start) & (rows < start + len(part)))
        if len(positions):
            yield part, rows[positions] - start, positions
        start += len(part)


def _store(reader: Reader, settings: DataSettings) -> PixelStore | DiskStore:
    """Return the store of a reader: on disk if settings say so and its rows are files, else in memory."""
    store, size, resize = _STORES.get(reader), settings.size, settings.resize
    if settings.cache == "disk" and isinstance(reader, FileBacked):
        folder, cap = cache_folder(settings.cache_dir), settings.cache_disk_mb * MIB
        if not isinstance(store, DiskStore) or (store.size, store.resize, store.folder) != (size, resize, folder):
            store = _STORES[reader] = DiskStore(reader, size, resize, folder, cap)
        # The file does not depend on the cap; a later table may come with another.
        store.cap = cap
        return store
    cap = settings.cache_mb * MIB
    # A mapping cannot grow: a larger cap needs a new one, and what was decoded is decoded again.
    if not isinstance(store, PixelStore) or (store.size, store.resize) != (size, resize) or store.cap < cap:
        store = _STORES[reader] = PixelStore(reader, size, resize, cap)
    return store
