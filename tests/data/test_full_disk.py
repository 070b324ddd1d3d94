"""Commands that write data on a full disk: one line, nothing left behind; given again with room they end as usual."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

import pytest
import torch

from fercore import cli, writing
from fercore.au.network import AUNetwork, save_network
from fercore.datasets.prepare import journal


@pytest.fixture
def given(tmp_path: Path, monkeypatch, tree) -> Path:
    """A folder with a dataset, boxes of its faces and a network, in which one stands."""
    tree("faces", {"anger": 3, "fear": 3})
    rows = [f"{path.relative_to(tmp_path / 'faces')},2,2,16,16\n" for path in tmp_path.rglob("*.png")]
    (tmp_path / "boxes.csv").write_text("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n" + "".join(rows))
    torch.manual_seed(0)
    save_network(AUNetwork(("AU01", "AU12"), (4, 4, 4, 4)), tmp_path / "au.safetensors", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch, line: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fercore", *line.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


PREPARE = "data prepare folder:faces --out out --boxes boxes.csv --align box --size 32 --min-size 4"
COMMANDS = {
    "data synthfer studio --out out --n 6": "out",
    "data convert folder:faces --out out --copy": "out",
    "data convert folder:faces --out out": "out/manifest.csv",
    "data split folder:faces --out out/split.json --by class": "out/split.json",
    "data split folder:faces --out out --by class --folds 2": "out/fold0.json",
    "au detect --source folder:faces --weights au.safetensors --out out/o.csv": "out/o.csv",
    f"{PREPARE} --workers 1": "out",
    f"{PREPARE} --workers 2": "out",
}


@pytest.mark.parametrize("line", COMMANDS)
def test_a_full_disk_is_one_line(given: Path, monkeypatch, capsys, line: str):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
    try:
        assert call(monkeypatch, line) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"fercore: error: cannot write: File too large ({COMMANDS[line]}")
    assert error.endswith("; raise the limit on the size of files (ulimit -f)")
    left = {path.name for path in given.rglob("*") if path.is_file() and "faces" not in path.parts}
    assert left <= {"boxes.csv", "au.safetensors", journal.NAME, journal.LOCK}
    assert call(monkeypatch, line) == 0
    assert not [path for path in given.rglob(f"*{writing.PART}")]


@pytest.mark.parametrize("stage", ["images", "journal", "manifest.csv", "refused.csv"])
def test_a_disk_that_fills_while_faces_are_prepared(given: Path, monkeypatch, capsys, stage: str):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(path: Path) -> int:
        if stage in str(path):
            raise full
        return plain(path)

    def no_line(self, record) -> None:
        with writing.writing(self.path):
            raise full

    plain = writing.open_new
    with monkeypatch.context() as patch:
        patch.setattr(writing, "open_new", refuse)
        if stage == "journal":
            patch.setattr(journal.Journal, "write", no_line)
        assert call(monkeypatch, f"{PREPARE} --workers 1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fercore: error: cannot write: No space left on device (out/")
    assert error.endswith("; make room there")
    assert call(monkeypatch, f"{PREPARE} --workers 1") == 0
    assert (given / "out/refused.csv").read_text() == "path,reason\n"


@pytest.mark.parametrize(
    "line",
    [
        "data synthfer studio --out . --n 6",
        "data convert folder:../faces --out . --copy",
        "data prepare folder:../faces --out . --boxes ../boxes.csv --align box --size 32 --min-size 4 --workers 1",
    ],
)
def test_the_folder_one_stands_in(given: Path, monkeypatch, line: str):
    (given / "here").mkdir()
    monkeypatch.chdir(given / "here")
    assert call(monkeypatch, line) == 0
    assert Path("manifest.csv").is_file()
    assert os.path.samefile(given / "here", ".")


def test_what_a_killed_command_left_is_no_obstacle(given: Path, monkeypatch):
    for draft in (".out.part", "out/.part"):
        (given / draft).mkdir(parents=True)
        (given / draft / "half.png").write_bytes(b"x")
        assert call(monkeypatch, "data convert folder:faces --out out --copy") == 0
        assert sorted(os.listdir("out")) == ["images", "manifest.csv"]
        assert not list(given.rglob("*.part"))
        for path in sorted(Path("out").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        Path("out").rmdir()
