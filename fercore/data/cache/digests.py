"""What the preflight found of image files, remembered in the cache folder, so that a later run does not decode again.

A digest counts only while size and times of its file are what they were. Unusable files are looked at every time.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import numpy as np

from fercore.data.cache.files import DIGESTS, STAMP, FileBacked, new_draft, source_key, stamps
from fercore.files import read_bytes

# File: MAGIC, CRC32 of the rest (little endian), then one ENTRY a row of the reader, in its order.
# An empty digest is a row that is not known; others are hex, two digits for each of 16 bytes.
ENTRY = np.dtype([("digest", "S32"), ("stamp", STAMP)])
MAGIC = b"fercore digests1"


class DigestMemo:
    """Digests of the rows of one file-backed reader.

    Args:
        reader: whose rows. folder: of the cache.
    """

    def __init__(self, reader: FileBacked, folder: Path) -> None:
        self.path = folder / (source_key(reader, "digests") + DIGESTS)
        self._entries = _read(self.path, len(reader.paths))
        with contextlib.suppress(OSError):
            os.utime(self.path)  # the longest unused goes first when room is made
        self._sources = reader.paths

    def known(self, rows: list[int]) -> list[str]:
        """Return the digest of each row, "" where it is not known or its file has changed."""
        now = stamps(self._sources[row] for row in rows)
        entries = self._entries[rows]
        fresh = entries["stamp"] == now
        return [entry.decode() if good else "" for entry, good in zip(entries["digest"].tolist(), fresh, strict=True)]

    def remember(self, rows: list[int], digests: list[str], before: np.ndarray) -> None:
        """Keep digests for later runs; a failure to write is no fault of the run.

        Args:
            rows: whose. digests: "" = unusable, not kept. before: STAMP[k] of the files before they were read.
        """
        entries = self._entries.copy()
        for row, digest, stamp in zip(rows, digests, before, strict=True):
            # A stamp taken after reading could belong to a file changed
            # meanwhile; the one from before makes such a row stale.
            entries[row] = (digest.encode(), stamp) if digest else (b"", np.zeros((), dtype=STAMP))
        content = entries.tobytes()
        with contextlib.suppress(OSError):
            handle, draft = new_draft(self.path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(MAGIC + zlib.crc32(content).to_bytes(4, "little") + content)
                # Two runs over the same data replace the whole file: the
                # later one wins, what the other learnt is looked up again.
                os.replace(draft, self.path)
            except OSError:
                os.unlink(draft)
                raise
        self._entries = entries

    def stamps(self, rows: list[int]) -> np.ndarray:
        """Return STAMP[k] of the rows' files as they are now."""
        return stamps(self._sources[row] for row in rows)


def _read(path: Path, n: int) -> np.ndarray:
    """Return what was remembered, or nothing if there is none or it is damaged."""
    with contextlib.suppress(OSError):
        content = read_bytes(path)
        body = content[len(MAGIC) + 4 :]
        checksum = int.from_bytes(content[len(MAGIC) : len(MAGIC) + 4], "little")
        if content.startswith(MAGIC) and len(body) == n * ENTRY.itemsize and zlib.crc32(body) == checksum:
            return np.frombuffer(body, dtype=ENTRY)
    return np.zeros(n, dtype=ENTRY)
