"""What is written is there whole or not at all, goes through no link, and says why where it cannot be written."""

from __future__ import annotations

import ast
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fercore import writing
from fercore.errors import UserInputError
from fercore.writing import WriteError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small_files():
    """Let no file grow beyond 100,000 bytes: a write fails half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_replaced_whole_with_the_mode_of_the_umask(tmp_path: Path, umask):
    path = tmp_path / "a.csv"
    path.write_text("before")
    with writing.whole(path, "w") as file:
        file.write("one\r\n\udce4\n")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_bytes() == b"one\r\n\\udce4\n"
    writing.write_json(tmp_path / "b.json", {"a": 1})
    writing.write_tensors(tmp_path / "c.safetensors", {"x": torch.arange(6.0).view(2, 3).T}, {"kind": "k"})
    assert {mode(child) for child in tmp_path.iterdir()} == {0o640}
    with safe_open(tmp_path / "c.safetensors", "pt") as found:
        assert found.metadata() == {"kind": "k"}
        assert torch.equal(found.get_tensor("x"), torch.arange(6.0).view(2, 3).T)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path, small_files):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(WriteError) as caught:
        writing.write_text(path, "x" * 200_000)
    assert (
        str(caught.value) == f"cannot write: File too large ({path}); raise the limit on the size of files (ulimit -f)"
    )
    with pytest.raises(ZeroDivisionError), writing.whole(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.ENOSPC, "No space left on device (x); make room there"),
        (errno.EROFS, "Read-only file system (x); choose a place that you may write"),
        (errno.EACCES, "Permission denied (x); choose a place that you may write"),
        (errno.ENOENT, "No such file or directory (x); its folder was moved or deleted"),
        (errno.EIO, "Input/output error (x); look whether the disk is sound"),
    ],
)
def test_reason_and_remedy(code: int, fix: str):
    assert str(writing.write_fault(OSError(code, os.strerror(code)), Path("x"))) == f"cannot write: {fix}"


def test_nothing_is_written_through_a_link(tmp_path: Path):
    target = tmp_path / "target"
    target.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    for attempt in (lambda: writing.append_text(link, "x"), lambda: writing.cut(link, 0)):
        with pytest.raises(WriteError, match="cannot write: a link, not a file .*link.; remove it"):
            attempt()
    writing.draft_of(link).symlink_to(target)
    writing.write_text(link, "new")
    assert not link.is_symlink()
    assert link.read_text() == "new"
    assert target.read_text() == "mine"
    with pytest.raises(UserInputError, match="output file exists"):
        writing.refuse_taken(link)


@pytest.mark.timeout(60)
def test_nothing_is_written_into_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WriteError, match="cannot write: a named pipe, not a file"):
        writing.append_text(tmp_path / "pipe", "x")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(WriteError, match="cannot write: a named pipe, not a file"):
        writing.append_text(tmp_path / "pipe", "x")
    os.close(reader)


def test_a_folder_appears_whole_with_the_mode_of_the_umask(tmp_path: Path, umask):
    with writing.whole_folder(tmp_path / "new", "b") as draft:
        (draft / "b").write_text("")
        assert not (tmp_path / "new").exists()
    assert mode(tmp_path / "new") == 0o750
    with pytest.raises(WriteError, match=r"cannot write: No space left on device \(.*/other/b\)"):
        with writing.whole_folder(tmp_path / "other", "b") as draft:
            raise writing.write_fault(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), draft / "b")
    assert [child.name for child in tmp_path.iterdir()] == ["new"]


def test_an_empty_folder_stays_and_is_filled(tmp_path: Path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir(0o700)
    monkeypatch.chdir(folder)
    order = []
    plain = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (order.append(Path(b).name), plain(a, b)))
    with writing.whole_folder(Path(), "b") as draft:
        for name in "abc":
            (draft / name).write_text("")
        assert writing.is_unused(Path())
    assert sorted(os.listdir(folder)) == ["a", "b", "c"]
    assert order[-1] == "b"
    assert mode(folder) == 0o700
    assert not writing.is_unused(Path())


FILLS = """
import sys, time
from pathlib import Path
from fercore.writing import whole_folder
with whole_folder(Path(sys.argv[1]), "b") as draft:
    (draft / "a").write_text("half")
    print("ready", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("there", [False, True])
def test_two_processes_and_a_kill(tmp_path: Path, there: bool):
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
    other = subprocess.Popen([sys.executable, "-c", FILLS, folder], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(WriteError, match="another process writes there .*out.; wait for"):
        with writing.whole_folder(folder, "b"):
            raise AssertionError
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert writing.is_unused(folder)
    with writing.whole_folder(folder, "b") as draft:
        assert not list(draft.iterdir())
        (draft / "b").write_text("")
    assert [child.name for child in folder.iterdir()] == ["b"]
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_two_writers_of_one_file(tmp_path: Path):
    place = tmp_path / "a.txt"
    with (
        pytest.raises(WriteError, match="another process writes it .*a.txt.; wait for"),
        writing.whole(place, "w") as first,
    ):
        first.write("one")
        with writing.whole(place, "w") as second:
            second.write("two")
    assert place.read_text() == "two"
    with pytest.raises(WriteError, match="another process writes it"), writing.whole(place, "w") as first:
        first.write("three")
        later = writing.whole(place, "w")
        later.__enter__().write("four")  # half written: it must neither take the name nor be removed
    assert place.read_text() == "two"
    later.__exit__(None, None, None)
    assert place.read_text() == "four"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


METHODS = {"write_text", "write_bytes", "touch"}
FUNCTIONS = {"mkstemp", "mkdtemp", "NamedTemporaryFile", "save_file", "truncate"}
OWN = {
    "fercore/writing.py",
    "fercore/engine/results.py",
    "fercore/ops/build.py",
    "fercore/terminal.py",
}
"""Modules that open files for writing by themselves: locks, and what the system offers as files."""


def _opens_for_writing(call: ast.Call) -> bool:
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if method else getattr(call.func, "id", "")
    if method and getattr(call.func.value, "id", "") == "av":  # writes into a file that is open already
        return False
    if name in FUNCTIONS or (method and name in METHODS):
        return True
    words = [*call.args[:2], *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [str(word.value) for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    return name == "open" and any(set(mode) <= set("wxabt+") and set(mode) & set("wxa") for mode in modes)


@pytest.mark.slow
def test_files_are_opened_for_writing_in_one_place():
    found = {
        file.relative_to(ROOT).as_posix()
        for file in [*ROOT.glob("fercore/**/*.py"), *ROOT.glob("plugins/*/fercore_*/**/*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and _opens_for_writing(node)
    }
    assert found <= OWN, found - OWN
