"""Decoded, resized images kept on disk: written once, read by every process and every later run.

One file holds the images of one reader at one size: a header, a record a row, and the pixels, at first a hole. A record
is written after its pixels and holds their checksum and the stamp of the source file. A row whose record does not fit
(never written, cut short by a kill, written by two processes at once, source changed) is decoded again, so that nothing
needs a lock.

Nothing of the file is mapped into memory: a process that touches a mapped page for which a full disk has no room, or
that somebody has cut off, is ended by SIGBUS without a word, where a read or a write comes back with an error. A disk
that is full, or fails, costs the cache and not the run: it says so once, and images are decoded again.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fercore.data.cache.files import PIXELS, STAMP, FileBacked, make_room, new_draft, on_disk, source_key, stamps
from fercore.data.images.readers import Reader
from fercore.data.images.resize import fitted

log = logging.getLogger(__name__)
MAGIC = b"fercore images 2"
HEADER = struct.Struct("<16sQQ")
"""Magic, rows, bytes an image."""
RECORD = np.dtype([("filled", "<u4"), ("checksum", "<u4"), ("stamp", STAMP), ("digest", "S32")])
"""Of a row: 1, checksum of its pixels, stamp of its file, and the digest that a preflight gave it; "" = none."""
# Pixels begin on a page, so that records, allocated at once, and the hole for pixels share none.
PAGE = 4096


class DiskStore:
    """Images of one file-backed reader at one size.

    Args:
        reader: where images come from. size: side in pixels. resize: "stretch" or "crop".
        folder: of the cache. cap: bytes that all files in it may take.
    """

    def __init__(self, reader: FileBacked, size: int, resize: str, folder: Path, cap: int) -> None:
        from PIL import __version__ as decoder

        n = len(reader.paths)
        self.size, self.resize, self.folder, self.cap = size, resize, folder, cap
        self.image_bytes = 3 * size * size
        self.path = folder / (source_key(reader, size, resize, decoder) + PIXELS)
        self._sources, self._digests = reader.paths, reader.digests
        # Rounded up to a whole page.
        self._start = -(-(HEADER.size + n * RECORD.itemsize) // PAGE) * PAGE
        self._allowed = np.zeros(n, dtype=bool)
        self._broken = False
        self._file = -1
        try:
            # Written under a larger cap: no row of it could be given up alone, so it goes as a whole.
            if on_disk(self.path) > cap:
                self.path.unlink(missing_ok=True)
            self._file = _opened(self.path, n, self.image_bytes, self._start)
            # Marks the file as used for `make_room`; in a shared folder it may be somebody else's.
            with contextlib.suppress(PermissionError):
                os.utime(self.path)
        except OSError as error:
            self._give_up(error)
        # Shared by forked workers: what one has found good, the others need not check again.
        self._good = np.frombuffer(mmap.mmap(-1, max(1, n)), dtype=np.uint8)

    def __del__(self) -> None:
        file = getattr(self, "_file", -1)
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)

    @property
    def promised(self) -> int:
        """Return the bytes that rows allowed to be written will take, written or not."""
        return int(self._allowed.sum()) * self.image_bytes

    def reserve(self, rows: np.ndarray, others: Sequence[DiskStore] = ()) -> None:
        """Allow rows to be written, as far as the cap goes; caches of other data that nobody uses give way.

        Args:
            rows: those that will be asked for. others: the other open stores of the folder.
        """
        if self._broken:
            return
        # Rows on disk already take their bytes, whoever wrote them.
        self._allowed |= self._records()["filled"] > 0
        wanted = np.unique(rows)
        new = wanted[~self._allowed[wanted]]
        room = self.cap - self.promised - sum(other.promised for other in others)
        keep = {self.path, *(other.path for other in others)}
        # What could not be removed, and is not ours, still counts.
        room -= make_room(self.folder, keep, max(0, room - len(new) * self.image_bytes))
        self._allowed[new[: max(0, room) // self.image_bytes]] = True

    def read(self, reader: Reader, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Write the images of `rows` to out[at], uint8[.,3,size,size]."""
        pairs = zip(rows.tolist(), at.tolist(), strict=True)
        # Rows checked earlier in this process tree: pixels alone are read, no record, stat or checksum.
        have = [bool(self._good[row]) and self._pixels(row, out[place]) for row, place in pairs]
        rest = np.flatnonzero(~np.array(have, dtype=bool))
        if not len(rest):
            return
        # Before decoding: a source that changes meanwhile leaves a record that no longer fits.
        now = stamps(self._sources[row] for row in rows[rest].tolist())
        missing = [k for k, i in enumerate(rest.tolist()) if not self._take(int(rows[i]), now[k], out, int(at[i]))]
        self._decode(reader, rows[rest[missing]], now[missing], out, at[rest[missing]])

    def _take(self, row: int, now: np.ndarray, out: np.ndarray, at: int) -> bool:
        """Copy a row that was written earlier, if its record, its source, its digest and its checksum fit."""
        record, expected = self._records(row, 1)[0], self._digest(row)
        # Cheap comparisons first: the checksum needs the pixels read.
        if record["filled"] != 1 or record["stamp"] != now or (expected and record["digest"] != expected):
            return False
        if not self._pixels(row, out[at]) or zlib.crc32(np.ascontiguousarray(out[at]).data) != int(record["checksum"]):
            return False
        self._good[row] = 1
        return True

    def _records(self, first: int = 0, count: int | None = None) -> np.ndarray:
        """Return RECORD[count] as they are on disk now; those that are not there are empty."""
        records = np.zeros(len(self._sources) if count is None else count, dtype=RECORD)
        if self._file >= 0:
            _read_into(self._file, records.view(np.uint8), HEADER.size + first * RECORD.itemsize)
        return records

    def _pixels(self, row: int, out: np.ndarray) -> bool:
        """Write a row's image to `out` uint8[3,size,size]; return whether the file has all of it."""
        if _read_into(self._file, out, self._start + row * self.image_bytes):
            return True
        # Cut off by another process since it was checked.
        self._good[row] = 0
        return False

    def _digest(self, row: int) -> bytes:
        """Return what the preflight of this run found a row to be; b"" = it did not look."""
        return self._digests[row].encode() if self._digests else b""

    def _give_up(self, error: OSError) -> None:
        """Write no more, and say so once."""
        if not self._broken:
            text = "image cache stops growing: %s (%s); make room there, images beyond are decoded again"
            log.warning(text, error.strerror, self.path)
        self._broken = True
        self._allowed[:] = False

    def _decode(self, reader: Reader, rows: np.ndarray, now: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        for k, image in enumerate(reader.read_many(rows.tolist())):
            pixels = fitted(image, self.size, self.resize)
            out[at[k]] = pixels
            self._write(int(rows[k]), np.ascontiguousarray(pixels), now[k])

    def _write(self, row: int, pixels: np.ndarray, stamp: np.ndarray) -> None:
        if not self._allowed[row]:
            return
        record = np.zeros((), dtype=RECORD)
        record["filled"], record["checksum"], record["stamp"] = 1, zlib.crc32(pixels.data), stamp
        record["digest"] = self._digest(row)
        try:
            # Pixels before the record. Nothing is synced: after a crash of
            # the system the checksum finds what did not reach the disk.
            _write_at(self._file, pixels.tobytes(), self._start + row * self.image_bytes)
            _write_at(self._file, record.tobytes(), HEADER.size + row * RECORD.itemsize)
        except OSError as error:
            self._give_up(error)
            return
        self._good[row] = 1


def _read_into(file: int, out: np.ndarray, place: int) -> bool:
    """Fill an array from a place in a file; return whether there was enough, and no error."""
    try:
        return os.preadv(file, [out.data.cast("B")], place) == out.nbytes
    except OSError:
        return False


def _write_at(file: int, content: bytes, place: int) -> None:
    # A write may be short, on a full disk above all; the next call then raises.
    while content:
        done = os.pwrite(file, content, place)
        content, place = content[done:], place + done


def _opened(path: Path, n: int, image_bytes: int, start: int) -> int:
    """Return a descriptor of the cache file, made again if there is none or it is not what it should be."""
    # Another process may remove or replace the file between these lines.
    for _ in range(3):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if _sound(file, n, image_bytes, start):
                return file
            os.close(file)
            path.unlink(missing_ok=True)
        _create(path, n, image_bytes, start)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _sound(file: int, n: int, image_bytes: int, start: int) -> bool:
    whole = os.fstat(file).st_size == max(start, start + n * image_bytes)
    return whole and os.pread(file, HEADER.size, 0) == HEADER.pack(MAGIC, n, image_bytes)


def _create(path: Path, n: int, image_bytes: int, start: int) -> None:
    """Put an empty cache file in place, with room for its records and a hole for its pixels.

    Of two processes that do so at once, one wins and the other takes its file. Where a file system has no links, the
    later one wins: what the other writes meanwhile is decoded again.
    """
    handle, draft = new_draft(path.parent)
    try:
        try:
            if hasattr(os, "posix_fallocate"):
                # Records get their blocks now, so that a full disk is
                # told here; pixels stay a hole until they are written.
                os.posix_fallocate(handle, 0, start)
            os.ftruncate(handle, start + n * image_bytes)
            _write_at(handle, HEADER.pack(MAGIC, n, image_bytes), 0)
        finally:
            os.close(handle)
        try:
            # A link, unlike a rename, never replaces a file that another process has begun to fill.
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:
            os.replace(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
