"""Preparing faces again into one folder: samples that moved, samples of one file, changed boxes, other processes."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from photographs import TRUTH, N, spec

from fercore.data.spec import parse_spec
from fercore.datasets import prepare as preparing
from fercore.datasets.prepare import PrepareSettings, prepare
from fercore.datasets.prepare.journal import Journal
from fercore.errors import UserInputError


def grey(path: Path, level: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (64, 64), level).save(path)
    return path


def boxes(path: Path, names: list[str], *, left: int = 10) -> PrepareSettings:
    rows = "".join(f"{name},{left},10,40,40\n" for name in names)
    path.write_text("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight\n" + rows)
    return PrepareSettings(size=16, align="box", boxes=str(path))


def levels(out: Path) -> list[tuple[str, str, int]]:
    """Return (source's name, label, grey level of the prepared face) of every row of a manifest."""
    with (out / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        (row["source"].rpartition("/")[2], row["label"], int(np.asarray(Image.open(out / row["path"]))[8, 8]))
        for row in rows
    ]


def test_a_photograph_that_comes_first_takes_no_others_place(tmp_path: Path):
    for name, level in (("b", 50), ("c", 80)):
        grey(tmp_path / "d" / "anger" / f"{name}.png", level)
    settings = boxes(tmp_path / "b.csv", [f"anger/{name}.png" for name in "abc"])
    prepare(spec(tmp_path / "d"), tmp_path / "out", settings)
    grey(tmp_path / "d" / "anger" / "a.png", 20)
    prepare(spec(tmp_path / "d"), tmp_path / "out", settings)
    assert levels(tmp_path / "out") == [("a.png", "anger", 20), ("b.png", "anger", 50), ("c.png", "anger", 80)]


def test_one_photograph_in_two_rows_is_two_faces(tmp_path: Path):
    grey(tmp_path / "a.png", 20)
    grey(tmp_path / "b.png", 50)
    (tmp_path / "m.csv").write_text("path,label\na.png,anger\nb.png,fear\na.png,fear\n")
    settings = boxes(tmp_path / "boxes.csv", ["a.png", "b.png"])
    expected = [("a.png", "anger", 20), ("b.png", "fear", 50), ("a.png", "fear", 20)]
    for resumed in (0, 3):
        report = prepare(parse_spec(f"manifest:{tmp_path}/m.csv"), tmp_path / "out", settings)
        assert (report["resumed"], levels(tmp_path / "out")) == (resumed, expected)


def test_another_box_of_the_same_file_is_done_again(tmp_path: Path):
    halves = np.zeros((64, 64), dtype=np.uint8)
    halves[:, 32:] = 200
    grey(tmp_path / "e" / "origin" / "x.png", 0)
    Image.fromarray(halves).save(tmp_path / "e" / "origin" / "x.png")
    found = []
    for left in (0, 32):
        (tmp_path / "e" / "label.lst").write_text(f"x.png 0 0 {left} {left + 32} 32 50 0\n")
        settings = boxes(tmp_path / "boxes.csv", [f"{tmp_path}/e/origin/x.png#0"], left=0)
        prepare(parse_spec(f"expw:{tmp_path}/e?parts=none"), tmp_path / "out", settings)
        found += levels(tmp_path / "out")
    assert [level for _, _, level in found] == [0, 200]


def test_another_face_in_the_boxes_is_done_again(tmp_path: Path):
    grey(tmp_path / "d" / "anger" / "a.png", 20)
    report = []
    for left in (0, 0, 12):
        settings = boxes(tmp_path / "boxes.csv", ["anger/a.png"], left=left)
        report.append(prepare(spec(tmp_path / "d"), tmp_path / "out", settings)["resumed"])
    assert report == [0, 1, 0]


def test_names_that_are_no_utf_8_are_resumed_as_well(tmp_path: Path):
    folder = tmp_path / "d" / "anger"
    grey(folder / "a.png", 20)
    os.rename(folder / "a.png", os.fsencode(folder) + b"/J\xe4ger.png")
    for resumed in (0, 1):
        assert prepare(spec(tmp_path / "d"), tmp_path / "out", TRUTH)["resumed"] == resumed
    assert "J\\udce4ger.png,no face found" in (tmp_path / "out" / "refused.csv").read_text()


def test_a_result_counts_for_its_own_sample_only(tmp_path: Path):
    """Marks may agree by chance, as those of two copies of one file that were made in one go."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"x")
    journal = SimpleNamespace(done={"images/0": {"key": "a.png", "mark": [1], "file": "0.png"}})
    assert preparing._is_done(journal, tmp_path, "a.png", "images/0", [1])
    assert not preparing._is_done(journal, tmp_path, "b.png", "images/0", [1])
    assert not preparing._is_done(journal, tmp_path, "a.png", "images/0", [2])
    assert not preparing._is_done(journal, tmp_path, "a.png", "images/1", [1])
    (tmp_path / "images" / "0.png").unlink()
    assert not preparing._is_done(journal, tmp_path, "a.png", "images/0", [1])


def test_two_processes_in_one_folder(photographs: Path, tmp_path: Path):
    journal = Journal(tmp_path / "out", {"spec": f"folder:{photographs}", **TRUTH.record()})
    with pytest.raises(UserInputError, match="another process prepares faces in this folder"):
        prepare(spec(photographs), tmp_path / "out", TRUTH)
    journal.close()
    assert prepare(spec(photographs), tmp_path / "out", TRUTH)["prepared"] == N
    (tmp_path / "out" / "manifest.csv").unlink()
    with pytest.raises(UserInputError, match="other settings"):
        prepare(spec(photographs), tmp_path / "out", PrepareSettings(size=64, detector="truth"))
    assert prepare(spec(photographs), tmp_path / "out", TRUTH)["resumed"] == N, "a refusal gives the lock back"


@pytest.mark.parametrize("where", ["file", "file/out", "/proc/out"])
def test_a_folder_that_cannot_be_made(photographs: Path, tmp_path: Path, where: str):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserInputError, match="cannot write"):
        prepare(spec(photographs), tmp_path / where, TRUTH)


KILLED = """
import sys, time
from pathlib import Path
from fercore.datasets import prepare as preparing
from fercore.datasets.prepare.one import PrepareSettings
from fercore.data.spec import parse_spec

class Slow:
    def detect(self, image):
        time.sleep(0.2)
        return []

preparing.make_detector = lambda *a, **k: Slow()
preparing.prepare(parse_spec(sys.argv[1]), Path(sys.argv[2]), PrepareSettings(), workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="workers are forked")
def test_workers_of_a_killed_preparation_end(photographs: Path, tmp_path: Path):
    out = tmp_path / "out"
    run = subprocess.Popen([sys.executable, "-c", KILLED, f"folder:{photographs}", str(out)], start_new_session=True)
    journal = out / "journal.jsonl"
    _wait(lambda: journal.exists() and len(journal.read_text().splitlines()) > 2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    try:
        _wait(lambda: not _group_lives(run.pid))
    finally:
        if _group_lives(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 1 < len(lines) < N + 1
    assert not (out / "manifest.csv").exists()


def _wait(done) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
