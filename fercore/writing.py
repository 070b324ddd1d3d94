"""Writing files and folders: there whole or not at all, never through a link, and clear about why where that fails.

What is written is a draft beside its place, `.NAME.part`, until all of it is on the disk; then it takes its name. A
process that is killed leaves its draft, and the next one that writes under that name begins with removing it. Files get
the mode that the umask gives them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

from fercore.errors import UserInputError
from fercore.files import SUMS, NotRegularError, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

PART: Final = ".part"
FIXES: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there: your quota is used up",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.ENOENT: "its folder was moved or deleted",
    errno.EEXIST: "it is no folder: choose another place",
    errno.EIO: "look whether the disk is sound",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EWOULDBLOCK: "wait for the other process, or choose another place",
}
"""What to do about an error of the system; for all others: choose a place that may be written."""


class WriteError(UserInputError):
    """A file or folder cannot be written: no room, no permission, no such place."""


def write_fault(error: OSError, path: Path) -> WriteError:
    """Return what hinders a file or folder from being written, why, and what to do."""
    code = error.errno or 0
    fix = FIXES.get(code, "choose a place that you may write")
    if isinstance(error, NotRegularError) or (code == errno.ELOOP and path.is_symlink()):
        kind = "a link, not a file" if path.is_symlink() else error
        return WriteError(f"cannot write: {kind}", where=str(path), fix="remove it: nothing is written through it")
    return WriteError(f"cannot write: {error.strerror or error}", where=str(path), fix=fix)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of every OSError that it is this file or folder which cannot be written.

    Raises:
        WriteError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise write_fault(error, path) from None


def draft_of(path: Path) -> Path:
    """Return the name that a file or folder has while it is written."""
    return path.with_name(f".{path.name}{PART}")


def make_parents(path: Path) -> None:
    """Make the folders that a path lies in, as far as they are not there.

    Raises:
        WriteError: if they cannot be made.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)


def refuse_taken(path: Path, suffix: str = "") -> None:
    """Make sure, before long work, that a new file can be written.

    Raises:
        UserInputError: if something stands there, its folder cannot be written, or it is not named as it should be.
    """
    if not path.name.endswith(suffix):
        raise UserInputError(f"not a new {suffix} file", where=str(path), fix="choose another --out")
    if path.exists() or path.is_symlink():
        raise UserInputError("output file exists", where=str(path), fix="choose another --out")
    make_parents(path)
    draft = draft_of(path)
    with writing(path):
        draft.unlink(missing_ok=True)
        # Tried with the draft's own name: permission, length of the name and room for an entry are asked at once.
        os.close(open_new(draft))
        draft.unlink()


def open_new(path: Path) -> int:
    """Return a descriptor of a new file for reading and writing; nothing that stands there is loaded or followed."""
    # O_EXCL fails on links too, also on those that lead nowhere.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)


@contextmanager
def whole(path: Path, mode: Literal["w", "wb"] = "wb", *, sync: bool = True) -> Iterator[IO[Any]]:
    r"""Open a draft that takes the file's name once everything is written.

    Args:
        path: the file; one that is there, or a link, is replaced. mode: "wb", or "w" for UTF-8 with ends of lines as
            they are given; of a name that is no UTF-8 the bytes are written as escapes (\udce4).
        sync: whether it must be on the disk before it takes its name; many small ones may come again after a crash.

    Raises:
        WriteError: if it cannot be written; nothing is changed then.
    """
    draft = draft_of(path)
    text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""} if mode == "w" else {}
    with writing(path):
        # Left by a killed process, or being written by another: the latter finds out in `_names`.
        draft.unlink(missing_ok=True)
        try:
            with os.fdopen(open_new(draft), mode, **text) as file:  # type: ignore[call-overload]
                yield file
                # First Python's buffer, then the system's: what takes its name must be whole after a crash too.
                file.flush()
                if sync:
                    os.fsync(file.fileno())
                # Asked as late as can be: the draft under that name may be another process's by now, and is left to it.
                if not _names(draft, file.fileno()):
                    raise BlockingIOError(errno.EWOULDBLOCK, "another process writes it")
            draft.replace(path)
        except BaseException as error:
            if not isinstance(error, BlockingIOError):
                with suppress(OSError):
                    draft.unlink()
            raise
        if sync:
            # The new name itself is on the disk only once its folder is.
            _sync_folder(path.parent)


def _names(draft: Path, handle: int) -> bool:
    """Say whether a draft is still the open file: a second process that begins removes it and makes its own."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(draft))
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8, whole.

    Raises:
        WriteError: as `whole`.
    """
    content = text.encode()
    with whole(path) as file:
        file.write(content)


def write_json(path: Path, values: Any) -> None:
    """Write JSON, whole.

    Raises:
        WriteError: as `whole`.
    """
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as a .safetensors file, whole; the library itself would give it mode 0600 whatever the umask.

    Raises:
        WriteError: as `whole`.
    """
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    with whole(path) as file:
        file.write(content)


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """List the checksums of files of a folder in its SHA256SUMS.

    Raises:
        WriteError: if one cannot be read, or the list not written.
    """
    lines = []
    for name in names:
        with writing(folder / name):
            lines.append(f"{sha256_of(folder / name)}  {name}\n")
    write_text(folder / SUMS, "".join(lines))


def open_present(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file that is written in place; a link or a pipe is refused at once.

    Raises:
        OSError: if it cannot be loaded; NotRegularError if it is no regular file.
    """
    # O_NONBLOCK, or opening a pipe for writing waits for a reader.
    safe = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))
    try:
        handle = os.open(path, flags | safe, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise NotRegularError(os.stat(path).st_mode) from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise NotRegularError(mode)
    return handle


def append_text(path: Path, text: str) -> None:
    """Append to a file, made if it is not there.

    Raises:
        WriteError: if it cannot be written, or is a link or no file.
    """
    with writing(path), os.fdopen(open_present(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb") as file:
        file.write(text.encode())


def cut(path: Path, size: int) -> None:
    """Cut a file back to a length.

    Raises:
        WriteError: as `append_text`.
    """
    with writing(path), os.fdopen(open_present(path, os.O_WRONLY), "wb") as file:
        file.truncate(size)


def is_unused(folder: Path) -> bool:
    """Return whether nothing stands under a name, or an empty folder does; what a killed process left counts not."""
    if not folder.is_dir():
        return not (folder.exists() or folder.is_symlink())
    return set(os.listdir(folder)) <= {PART}


@contextmanager
def whole_folder(path: Path, last: str) -> Iterator[Path]:
    """Yield a folder to fill, which takes its name once everything is in it.

    An empty folder that is there (`.`, a mounted volume) stays, and gets what was written at the end.

    Args:
        path: the folder; not there, or empty. last: the file by which it is known, which then comes last.

    Raises:
        WriteError: if it cannot be written; also for every OSError while it is filled, or if another process fills it.
    """
    place = Path(os.path.abspath(path))
    inside = place.is_dir()
    draft = place / PART if inside else draft_of(place)
    with writing(path), _claimed(draft):
        try:
            yield draft
            if inside:
                # A folder that stays cannot be renamed over: its files
                # move one by one, and the one it is known by last.
                for name in sorted(os.listdir(draft), key=lambda name: name == last):
                    os.rename(draft / name, place / name)
                draft.rmdir()
            else:
                draft.rename(place)
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if isinstance(error, WriteError):  # of a file in the draft, which the user knows by its later name
                where = error.where.replace(str(draft), str(path))
                raise WriteError(error.what, where=where, fix=error.fix) from None
            raise
        _sync_folder(place if inside else place.parent)


@contextmanager
def _claimed(draft: Path) -> Iterator[None]:
    """Make an empty folder for one process alone; what a killed one has left of it is removed."""
    while True:
        with suppress(FileExistsError):
            draft.mkdir()
        # The folder itself is locked, not a file in it: the lock goes with a kill, and no file is left over.
        handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _lock(handle)
            if not os.listdir(draft):
                yield
                return
            # Not empty though unlocked: a killed process left it.
            # Removing takes the locked folder away, so it is made again.
            shutil.rmtree(draft)
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    """Lock a folder until its descriptor is closed, by a kill at the latest."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(errno.EWOULDBLOCK, "another process writes there") from None


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
