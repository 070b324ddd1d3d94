"""Predicting and preparing on a cluster: the rows of one process, shards that go on, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fercore.cluster import Machines
from fercore.errors import UserInputError
from fercore.prediction import shards
from fercore.prediction.predict import PredictSettings
from fercore.prediction.shards import Work, predict_in_shards

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    (folder / "07.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import fercore

    out = tmp_path_factory.mktemp("shards") / "run"
    settings = {
        "train.steps": 2,
        "train.threads": 1,
        "data.size": 32,
        "data.eval_batch": 8,
        "report.tensorboard": False,
    }
    data = {"source": "synthfer:studio?n=100", "target": "synthfer:web?n=120", "preset": "demo"}
    return fercore.train("source_only", **data, set=settings, seed=0, out=out, device="cpu").path


class Here:
    """A cluster of this process, which may be stopped."""

    def __init__(self, monkeypatch, stop_after=None):
        self.made, self.stop_after = [], stop_after
        monkeypatch.setattr(shards, "connected", lambda machines: self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def outcomes(self, calls, *, fresh):
        for number, (name, call) in enumerate(calls):
            if self.stop_after is not None and len(self.made) == self.stop_after:
                raise KeyboardInterrupt
            self.made.append(name)
            try:
                yield number, call()
            except UserInputError as error:
                yield number, error


def sharded(trained, inputs, out, **more):
    return predict_in_shards(Work(str(trained), "cpu", PredictSettings()), inputs, out, Machines(), **more)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_shards_come_to_the_table_of_one_process(suffix, trained, pictures, tmp_path, monkeypatch):
    import fercore

    inputs = [str(pictures), str(pictures / "03.png"), "synthfer:nir?n=20"]
    alone, out = tmp_path / f"alone{suffix}", tmp_path / f"out{suffix}"
    summary = fercore.predict(trained, inputs, out=alone, device="cpu")
    here = Here(monkeypatch, stop_after=2)
    with pytest.raises(KeyboardInterrupt, match="add --resume to go on"):
        sharded(trained, inputs, out, shard=16)
    with pytest.raises(UserInputError, match="shards of an interrupted table are there"):
        sharded(trained, inputs, out, shard=16)
    with pytest.raises(UserInputError, match="the shards there are of other inputs"):
        sharded(trained, inputs[:1], out, shard=16, resume=True)
    here = Here(monkeypatch)
    told = []
    joined = sharded(trained, inputs, out, shard=16, resume=True, progress=lambda *both: told.append(both))
    assert here.made == [f"{number:06}{suffix}" for number in (2, 3)]
    assert told[0] == (32, 41)
    assert told[-1] == (41, 41)
    if suffix == ".parquet":
        import pandas

        pandas.testing.assert_frame_equal(pandas.read_parquet(out), pandas.read_parquet(alone))
    else:
        assert out.read_bytes() == alone.read_bytes()
    assert (joined.faces, joined.frames, joined.shares) == (summary.faces, summary.frames, summary.shares)
    one, other = (json.loads(path.with_name(f"{path.name}.json").read_text()) for path in (alone, out))
    assert one["model"] == other["model"]
    assert other["finished"]
    assert not out.with_name(f"{out.name}.shards").exists()
    with pytest.raises(UserInputError, match="output file exists"):
        sharded(trained, inputs, out)


def test_what_is_of_one_process_is_refused(tmp_path, fercore):
    for words, message in (
        (["--adapt", "tent", "--out", tmp_path / "x.csv"], "--adapt goes with one process"),
        ([], "shards need a table"),
        (["--faces", "boxes.csv", "--out", tmp_path / "x.csv"], "a table of faces goes with one process"),
    ):
        code, _, error = fercore("predict", tmp_path, "faces", "--executor", "ray", *words)
        assert code == 2
        assert error.startswith(f"fercore: error: {message}")
    assert "--address is of a cluster" in fercore("predict", tmp_path, "faces", "--address", "auto")[2]


@pytest.mark.slow
def test_a_cluster_predicts_and_prepares_what_one_process_does(trained, pictures, tmp_path, monkeypatch, fercore):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    for executor in ("local", "ray"):
        code, _, error = fercore(
            "predict",
            trained,
            pictures,
            "--out",
            tmp_path / f"{executor}.csv",
            "--executor",
            executor,
            "--device",
            "cpu",
        )
        assert code == 0, error
        boxes = tmp_path / "boxes.csv"
        rows = [f"{pictures}/{number:02}.png,2,2,30,30,0.9" for number in range(40)]
        boxes.write_text("\n".join(["input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore", *rows]))
        code, _, error = fercore(
            "data", "prepare", f"folder:{pictures}", "--out", tmp_path / f"{executor}-faces", "--executor", executor,
            "--boxes", boxes, "--align", "box", "--size", 32,
        )  # fmt: skip
        assert code == 0, error
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
    for name in ("manifest.csv", "refused.csv"):
        assert (tmp_path / "ray-faces" / name).read_bytes() == (tmp_path / "local-faces" / name).read_bytes()
    images = sorted((tmp_path / "local-faces/images").rglob("*.png"))
    assert len(images) == 39
    for image in images:
        there = tmp_path / "ray-faces" / image.relative_to(tmp_path / "local-faces")
        assert there.read_bytes() == image.read_bytes()
