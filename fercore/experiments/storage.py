"""Run folders on storage that all machines of a cluster reach: an fsspec URL, one archive a run.

An archive takes its name once it is whole, so that a machine that dies leaves the one before.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fercore.errors import UserInputError, reason_of
from fercore.files import open_regular
from fercore.runs.folder import LOCK, RunFolder
from fercore.writing import PART, make_parents, whole

T = TypeVar("T")
EVERY = 5.0
"""Seconds between two looks for a new checkpoint."""


class Storage:
    """Run folders under a URL.

    Args:
        url: of fsspec: file://, s3://, gs://, ... root: the local folder whose run folders are kept there.

    Raises:
        UserInputError: for a URL that nobody knows.
    """

    def __init__(self, url: str, root: Path) -> None:
        self.url, self._root = url, root.absolute()
        self._fs, self._base = _file_system(url)

    def _place(self, folder: Path) -> str:
        return f"{self._base}/{folder.absolute().relative_to(self._root).as_posix()}.tar"

    def check(self) -> None:
        """Write and remove a small object, before anything is trained.

        Raises:
            UserInputError: if the storage refuses.
        """
        probe = f"{self._base}/.fercore-probe"
        with _named(self.url):
            self._fs.makedirs(self._base, exist_ok=True)
            self._fs.pipe_file(probe, b"fercore")
            self._fs.rm_file(probe)

    def pull(self, folder: Path) -> bool:
        """Bring a run folder from the storage in place of what is here; False = there is none.

        Raises:
            UserInputError: if the storage refuses, or the archive is damaged.
        """
        place = self._place(folder)
        with _named(self.url):
            if not self._fs.exists(place):
                return False
            make_parents(folder)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=PART) as scratch:
                archive = Path(scratch) / "run.tar"
                self._fs.get_file(place, str(archive))
                with open_regular(archive) as file, tarfile.TarFile(fileobj=file) as members:
                    members.extractall(Path(scratch) / "run", filter="data")
                shutil.rmtree(folder, ignore_errors=True)
                (Path(scratch) / "run").rename(folder)
        return True

    def push(self, folder: Path) -> None:
        """Keep a run folder as it stands.

        Raises:
            UserInputError: if the storage refuses, or the folder changes too fast.
        """
        place = self._place(folder)
        with _named(self.url), tempfile.TemporaryDirectory(dir=folder.parent, prefix=PART) as scratch:
            archive = Path(scratch) / "run.tar"
            with whole(archive, sync=False) as file, tarfile.TarFile(fileobj=file, mode="w") as members:
                # Checkpoints first: metrics.jsonl, which a run goes on with, is then never older than they are.
                for path in sorted(folder.iterdir(), key=lambda path: path.name != "checkpoints"):
                    members.add(path, path.name, filter=_kept)
            self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(archive), f"{place}{PART}")
            self._fs.mv(f"{place}{PART}", place)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what belongs to a process: its lock and its drafts."""
    name = member.name.rpartition("/")[2]
    return None if name == LOCK or name.endswith(PART) or name.startswith(PART) else member


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, base = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        fix = "write a URL of fsspec, such as file:///shared/runs or s3://bucket/runs; s3 needs the package s3fs"
        raise UserInputError(f"cannot use that storage: {error}", where=f"--storage {url}", fix=fix) from None
    return fs, str(base).rstrip("/")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Say of every error of the storage that it is the storage's."""
    try:
        yield
    except UserInputError:
        raise
    except (OSError, tarfile.TarError, RuntimeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        what = f"storage refuses: {reason or type(error).__name__}"
        raise UserInputError(what, where=f"--storage {url}", fix="look at its rights and room") from None


def kept_on(storage: Storage, folder: Path, start: Path | None, call: Callable[[], T]) -> T:
    """Make a call that trains in a run folder, which goes on from the storage and is kept there at every checkpoint.

    Args:
        folder: of the run. start: of the run whose model it starts from, brought here if there is one.

    Raises:
        UserInputError: if the storage refuses. Exception: what the call raised.
    """
    if start is not None and not RunFolder(start).finished:
        storage.pull(start)
    storage.pull(folder)
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(storage, folder, ended), daemon=True)
    follower.start()
    try:
        return call()
    finally:
        ended.set()
        follower.join()
        if RunFolder(folder).begun:
            storage.push(folder)


def _follow(storage: Storage, folder: Path, ended: threading.Event) -> None:
    """Keep a run folder whenever it has a new checkpoint."""
    kept: str | None = None
    while not ended.wait(EVERY):
        newest = max((path.name for path in RunFolder(folder).checkpoints.glob("step_*")), default=None)
        if newest is None or newest == kept:
            continue
        try:
            storage.push(folder)
            kept = newest
        except UserInputError:
            continue  # a file went while it was read, or the storage was busy: at the next look
