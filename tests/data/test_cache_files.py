"""The disk cache's folder: file systems without links, and what killed processes leave."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from fercore.data.cache import disk as cache_disk
from fercore.data.cache import files as cache_files


def test_a_file_system_without_links(tmp_path: Path, monkeypatch):
    def refuse(*paths: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    cache_disk._create(tmp_path / "a.pixels", 3, 10, 4096)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pixels"]
    assert (tmp_path / "a.pixels").stat().st_size == 4096 + 30


def test_drafts_of_killed_processes_go(tmp_path: Path):
    for name, age in ((".old.draft", 7200), (".new.draft", 5)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    cache_files.make_room(tmp_path, set(), 0)
    assert [path.name for path in tmp_path.iterdir()] == [".new.draft"]
