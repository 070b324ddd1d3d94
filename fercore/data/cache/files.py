"""The disk cache's folder: where it is, how full it is, what goes first, and what a file of images is known by."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fercore.errors import UserInputError
from fercore.writing import open_new

# Part of every file's name: raising it makes older files unused, and `make_room` removes them in time.
VERSION = 3
PIXELS, DIGESTS, DRAFT = ".pixels", ".digests", ".draft"
OLD = 3600.0
"""Age in seconds from which a draft is a killed process's."""
STAMP = np.dtype([("size", "<i8"), ("mtime", "<i8"), ("ctime", "<i8")])
"""What a source file is known to be unchanged by: its size, and when its content and its entry changed, in ns."""


@runtime_checkable
class FileBacked(Protocol):
    """A reader whose rows are files, or parts of files."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the file of each row."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Return what a preflight found of each row, "" = nothing; () where there was none."""

    def identity(self, row: int) -> str:
        """Return what a row shows of its file, as text; "" for all of it."""


def cache_folder(setting: str | None) -> Path:
    """Return the folder for cached images, made if it is not there.

    `setting` wins, then images/ in FERCORE_CACHE, then in the user's cache folder.

    Raises:
        UserInputError: if it cannot be made or written.
    """
    base = os.environ.get("FERCORE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fercore"
    )
    folder = Path(os.path.expanduser(setting)) if setting else Path(base) / "images"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot make the cache folder: {error.strerror}"
        raise UserInputError(what, where=str(folder), fix="set data.cache_dir to a folder you may write") from None
    if not os.access(folder, os.W_OK):
        fix = "set data.cache_dir to a folder you may write"
        raise UserInputError("the cache folder cannot be written", where=str(folder), fix=fix)
    return folder


def source_key(reader: FileBacked, *transform: object) -> str:
    """Return the name that images of these files, so transformed, are cached under."""
    name_hash = hashlib.blake2b(repr((VERSION, transform)).encode(), digest_size=16)
    for row, path in enumerate(reader.paths):
        name_hash.update(os.path.abspath(path).encode("utf-8", "surrogateescape"))
        # Separators: without them a path that ends as an identity begins would hash like another row.
        name_hash.update(b"\0" + reader.identity(row).encode() + b"\0")
    return name_hash.hexdigest()


def stamps(paths: Iterable[str]) -> np.ndarray:
    """Return STAMP[n] of files as they are now; all -1 for one that cannot be looked at."""
    rows = []
    for path in paths:
        try:
            info = os.stat(path)
            rows.append((info.st_size, info.st_mtime_ns, info.st_ctime_ns))
        except OSError:
            rows.append((-1, -1, -1))
    return np.array(rows, dtype=STAMP)


def new_draft(folder: Path) -> tuple[int, Path]:
    """Return descriptor and name of a new file, to be put in place when it is written.

    Several processes may write the same file of the cache at once, so each has a draft of its own.
    """
    # A hidden name: `make_room` goes by suffix, and must not take a draft for a cached file.
    draft = folder / f".{secrets.token_hex(8)}{DRAFT}"
    return open_new(draft), draft


def on_disk(path: Path) -> int:
    """Return the bytes a file takes on disk, holes not counted; 0 if it is gone."""
    try:
        info = path.stat()
    except OSError:
        return 0
    # st_blocks counts 512-byte units whatever the file system's
    # block size (POSIX leaves it open; Linux and macOS do so).
    return info.st_blocks * 512 if hasattr(info, "st_blocks") else info.st_size


def make_room(folder: Path, keep: set[Path], most: int) -> int:
    """Remove cached files, the longest unused first, until all but `keep` take at most `most` bytes.

    A file that another process reads stays readable to it.

    Returns:
        bytes that the files not in `keep` take then.
    """
    _remove_drafts(folder)
    files = [path for path in folder.iterdir() if path.suffix in (PIXELS, DIGESTS) and path not in keep]
    taken = {path: on_disk(path) for path in files}
    for path in sorted(files, key=_last_use):
        if sum(taken.values()) <= most:
            break
        with contextlib.suppress(OSError):  # somebody else's, in a folder shared by many
            path.unlink(missing_ok=True)
            taken.pop(path)
    return sum(taken.values())


def _remove_drafts(folder: Path) -> None:
    """Remove files that a killed process had begun; one at work has its draft for moments only."""
    for path in folder.glob(f".*{DRAFT}"):
        if _last_use(path) < time.time() - OLD:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _last_use(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
