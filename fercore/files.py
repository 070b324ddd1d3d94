"""Opening files that somebody else names: regular files only, so that no pipe, device or socket holds a program up."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path
from typing import Final

from fercore.errors import UserInputError

SUMS: Final = "SHA256SUMS"
"""File of checksums beside the files that it lists, as `sha256sum` writes and checks it."""

MOST_BYTES = 1 << 30
"""What is read of a file into memory at once; no list of images, and nothing else that is read so, is larger."""
KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link"),
)


class _InWords(OSError):
    """An error of our own, which has words for what is wrong and no number."""

    def __str__(self) -> str:
        return str(self.strerror)


class NotRegularError(_InWords):
    """What stands under a name is no regular file; `strerror` says what it is."""

    def __init__(self, mode: int) -> None:
        super().__init__(errno.EINVAL, f"{file_kind(mode)}, not a file")


class TooLargeError(_InWords):
    """A file is larger than memory should hold."""

    def __init__(self) -> None:
        super().__init__(errno.EFBIG, f"larger than {MOST_BYTES >> 20} MiB")


class ChecksumError(ValueError):
    """A file is not what its checksum says."""


def file_kind(mode: int) -> str:
    """Return what a mode (`os.stat_result.st_mode`) says that a file is: "a file", "a folder", "a named pipe", ..."""
    return next((name for test, name in KINDS if test(mode)), "a file")


def absolute(text: str) -> str:
    """Return a path from the root on, ~ replaced by the home folder; ".." stays, as the folder before may be a link."""
    return str(Path(os.path.expanduser(text)).absolute())


def irregular(path: str | os.PathLike[str]) -> str:
    """Return what stands under a name, links followed, where that is no regular file; "" for a file or nothing."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISREG(mode) else file_kind(mode)


def no_file(path: str | os.PathLike[str], what: str, *, fix: str) -> UserInputError:
    """Return the error of a name that is no file's: "WHAT not found", or what stands there instead."""
    kind = irregular(path)
    return UserInputError(f"{what} is {kind}, not a file" if kind else f"{what} not found", where=str(path), fix=fix)


def refuse_irregular(path: str | os.PathLike[str]) -> None:
    """Make sure that a library which opens a name by itself will not wait for a pipe.

    Raises:
        OSError: if there is nothing under that name (FileNotFoundError), or no regular file (NotRegularError).
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError(mode)


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> io.BufferedReader:
    """Open a regular file for reading; whatever else stands there is refused at once.

    It is looked at before it is loaded, for opening a device may set it in motion, and again afterwards, for it may
    have been replaced in between.

    Args:
        path: its name. follow: whether the name itself may be a link.

    Raises:
        OSError: if it cannot be loaded; NotRegularError if it is no regular file.
    """
    mode = os.stat(path, follow_symlinks=follow).st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError(mode)
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise NotRegularError(mode)
    return os.fdopen(handle, "rb")


def open_limited(path: str | os.PathLike[str], *, follow: bool = True) -> io.BufferedReader:
    """Open a regular file whose lines, or all of it, memory will hold.

    Raises:
        OSError: as `open_regular`; TooLargeError if it has more than `MOST_BYTES`.
    """
    file = open_regular(path, follow=follow)
    if os.fstat(file.fileno()).st_size > MOST_BYTES:
        file.close()
        raise TooLargeError
    return file


def read_bytes(path: str | os.PathLike[str], *, follow: bool = True) -> bytes:
    """Return the contents of a regular file.

    Raises:
        OSError: as `open_limited`.
    """
    with open_limited(path, follow=follow) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8", *, follow: bool = True) -> str:
    r"""Return the text of a regular file, every end of a line as "\n".

    Raises:
        OSError: as `open_limited`. UnicodeDecodeError: if it is not of that encoding.
    """
    text = read_bytes(path, follow=follow).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a regular file, in hexadecimal digits.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sum(path: Path) -> bool:
    """Compare a file's bytes with the checksum that SHA256SUMS beside it lists.

    Returns:
        Whether it is listed.

    Raises:
        OSError: if a file cannot be read. ChecksumError: if the bytes are others, or the list is no text.
    """
    try:
        lines = read_text(path.parent / SUMS).splitlines()
    except (FileNotFoundError, NotRegularError):
        return False
    except UnicodeDecodeError:
        raise ChecksumError(f"{SUMS} is no text") from None
    # `sha256sum` writes two signs between sum and name, the second * for binary mode.
    listed = {name.lstrip(" *"): wanted for wanted, _, name in (line.partition(" ") for line in lines)}
    if path.name not in listed:
        return False
    if sha256_of(path) != listed[path.name].lower():  # some programs write them in capitals
        raise ChecksumError(f"{path.name} has other bytes than {SUMS} beside it says")
    return True


def name_fault(error: OSError) -> UserInputError | None:
    """Return what is wrong with a name that no file can have: too long, or links in a circle; None for other errors."""
    if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
        return None
    return UserInputError(f"cannot use that name: {error.strerror}", where=str(error.filename), fix="choose another")
