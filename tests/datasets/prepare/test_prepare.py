"""Preparing faces: the whole way, resume, refusals, and settings that cannot be."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from photographs import TRUTH, N, Truth, contents, spec

from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.datasets import prepare as preparing
from fercore.datasets.prepare import PrepareSettings, prepare
from fercore.datasets.prepare.align import similarity, template, warp
from fercore.datasets.prepare.faces import five_of_68
from fercore.errors import UserInputError


def test_faces_come_out_aligned_with_a_manifest(photographs: Path, tmp_path: Path):
    report = prepare(spec(photographs), tmp_path / "out", TRUTH)
    assert (report["images"], report["prepared"], report["resumed"]) == (N, N, 0)
    before, after = read_domain(spec(photographs))[0], read_domain(parse_spec(report["spec"]))[0]
    assert after.labels.tolist() == before.labels.tolist()
    assert after.split == before.split
    with (tmp_path / "out" / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    five = np.stack([five_of_68(points) for points in Truth().points])
    for i, (key, row) in enumerate(zip(before.keys, rows, strict=True)):
        number = int(Path(key).stem)
        image = np.asarray(Image.open(key).convert("RGB"))
        matrix = similarity(five[number], template(48, 0.0))
        assert (after.read(i) == warp(image, matrix, 48)).all()
        assert row["source"] == key
        assert [float(row[f"nose_{axis}"]) for axis in "xy"] == pytest.approx(five[number, 2], abs=0.006)
        assert float(row["score"]) == 0.9


@pytest.mark.slow
def test_workers_change_nothing(photographs: Path, tmp_path: Path):
    prepare(spec(photographs), tmp_path / "one", TRUTH)
    prepare(spec(photographs), tmp_path / "two", TRUTH, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_preparation_goes_on(photographs: Path, tmp_path: Path, torn: bool):
    prepare(spec(photographs), tmp_path / "whole", TRUTH)

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(spec(photographs), out, TRUTH, progress=stop)
    assert not (out / "manifest.csv").exists()
    if torn:
        content = (out / "journal.jsonl").read_bytes()
        (out / "journal.jsonl").write_bytes(content[:-20])
    report = prepare(spec(photographs), out, TRUTH)
    assert report["resumed"] == (4 if torn else 5)
    assert contents(out) == contents(tmp_path / "whole")
    assert prepare(spec(photographs), out, TRUTH)["resumed"] == N


def test_a_changed_photograph_or_a_lost_face_is_done_again(photographs: Path, tmp_path: Path):
    prepare(spec(photographs), tmp_path / "out", TRUTH)
    expected = contents(tmp_path / "out")
    lost = next(name for name in expected if name.endswith(".png"))
    (tmp_path / "out" / lost).unlink()
    changed = next(photographs.rglob("3.png"))
    os.utime(changed, (1, 1))
    assert prepare(spec(photographs), tmp_path / "out", TRUTH)["resumed"] == N - 2
    assert contents(tmp_path / "out") == expected


def test_refused_images_are_listed_with_their_reason(photographs: Path, tmp_path: Path):
    (photographs / "train" / "anger").mkdir(exist_ok=True)
    (photographs / "train" / "anger" / "bad.jpg").write_bytes(b"no image")
    Image.new("RGB", (50, 50), (99, 0, 0)).save(photographs / "train" / "anger" / "nobody.png")
    report = prepare(spec(photographs), tmp_path / "out", TRUTH, workers=2)
    assert report["reasons"] == {"unusable image": 1, "no face found": 1}
    with (tmp_path / "out" / "refused.csv").open() as file:
        rows = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert rows == {"bad.jpg": "unusable image: not an image", "nobody.png": "no face found"}
    assert report["prepared"] == N


def test_a_worker_that_dies_is_no_riddle(photographs: Path, tmp_path: Path):
    Image.new("RGB", (50, 50), (200, 0, 0)).save(
        photographs / "train" / next((photographs / "train").iterdir()).name / "x.png"
    )
    with pytest.raises(UserInputError, match="a worker process died"):
        prepare(spec(photographs), tmp_path / "out", TRUTH, workers=2)


def test_folders_and_settings_that_cannot_be(photographs: Path, tmp_path: Path):
    prepare(spec(photographs), tmp_path / "out", TRUTH)
    with pytest.raises(UserInputError, match="a preparation with other settings"):
        prepare(spec(photographs), tmp_path / "out", PrepareSettings(size=64, detector="truth"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(UserInputError, match="the output folder is not empty"):
        prepare(spec(photographs), tmp_path / "full", TRUTH)
    with pytest.raises(UserInputError, match="lies in the dataset"):
        prepare(spec(photographs), photographs / "out", TRUTH)
    for change, message in (
        ({"align": "six"}, "unknown value 'six' .--align."), ({"choose": "first"}, "unknown value 'first' .--choose."),
        ({"image_format": "gif"}, "unknown value 'gif'"), ({"size": 8}, "size 8 is not from 16 to 4096"),
        ({"margin": -1.0}, "margin -1.0 is not from 0 to 2"), ({"detector": "mtcn"}, "did you mean 'mtcnn'"),
        ({"detector": "yunet"}, "needs weights of yours"), ({"detector": "retinaface"}, "needs weights of yours"),
        ({"detector": "mtcnn", "weights": __file__}, "brings its own weights"),
        ({"detector": "yunet", "weights": "/nowhere.onnx"}, "weights not found"),
    ):  # fmt: skip
        with pytest.raises(UserInputError, match=message):
            prepare(spec(photographs), tmp_path / "new", PrepareSettings(**{"detector": "truth", **change}))
        assert not (tmp_path / "new").exists()


def test_the_command_line(photographs: Path, tmp_path: Path, fercore):
    call = [f"folder:{photographs}", "--out", tmp_path / "out", "--detector", "truth", "--workers", 1]
    code, text, error = fercore("data", "prepare", *call)
    assert code == 0, error
    assert f"{N} of {N} images prepared (100.0%)" in text
    code, text, _ = fercore("data", "prepare", *call)
    assert "all done before" in text
    code, _, error = fercore("data", "prepare", *call, "--margin", 9)
    assert (code, error.count("\n")) == (2, 1)
    assert json.loads((tmp_path / "out" / "journal.jsonl").read_text().splitlines()[0])["how"]["detector"] == "truth"
    assert preparing.COLUMNS[6] == "source"
