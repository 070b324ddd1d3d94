"""Predicting on whatever people have: one row a face, one a picture that cannot be read, in three kinds of columns."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

import fercore
from fercore.cli import main
from fercore.data.spec import parse_spec
from fercore.datasets.prepare import PrepareSettings, prepare
from fercore.errors import UserInputError
from fercore.prediction.inputs import Frame, Inputs
from fercore.prediction.stream import AHEAD, ordered, pieces
from fercore.prediction.tables import Layout, Row, TableWriter
from fercore.stopping import Interrupted


@pytest.fixture(scope="module")
def pictures(trained, tmp_path_factory) -> Path:
    """Return a folder of eight images, two files that are none, and one that has nothing to do with it."""
    home = tmp_path_factory.mktemp("pictures")
    for k, path in enumerate(sorted((trained / "gone/wild").rglob("*.png"))[::10][:8]):
        shutil.copy(path, home / f"{k}.png")
    (home / "sub").mkdir()
    (home / "sub/empty.jpg").touch()
    (home / "sub/text.png").write_text("no image", encoding="utf-8")
    (home / "notes.txt").write_text("nothing", encoding="utf-8")
    return home


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refusal(*arguments, **keywords) -> str:
    with pytest.raises(UserInputError) as caught:
        fercore.predict(*arguments, **keywords, device="cpu")
    return str(caught.value)


def test_rows_are_what_the_model_and_its_run_say_and_what_cannot_be_read_has_a_reason(trained, pictures, tmp_path):
    told: list[str] = []
    summary = fercore.predict(
        trained / "run",
        [str(pictures), str(pictures / "0.png")],
        out=tmp_path / "a.csv",
        device="cpu",
        tell=told.append,
    )
    rows = rows_of(tmp_path / "a.csv")
    model = fercore.load(trained / "run", device="cpu")
    assert list(rows[0])[:5] == ["image", "face", "part", "prediction", "confidence"]
    assert list(rows[0])[5:13] == [*model.classes, "refused"]
    assert [Path(row["image"]).name for row in rows] == [f"{k}.png" for k in range(8)] + ["empty.jpg", "text.png"]
    assert [row["refused"] for row in rows[-2:]] == ["empty file", "not an image"]
    assert told[0] == "1 other file in the folders left alone"
    want = model.predict([pictures / f"{k}.png" for k in range(8)])
    given = np.array([[float(row[name]) for name in model.classes] for row in rows[:8]])
    assert np.abs(given - want.probs).max() < 1e-5
    assert tuple(row["prediction"] for row in rows[:8]) == want.labels
    said = {row["image"]: row for row in rows_of(trained / "run/predictions.csv")}
    source = sorted((trained / "gone/wild").rglob("*.png"))[0]
    own = said[str(trained / "data" / source.relative_to(trained / "gone"))]
    assert abs(given[0] - [float(own[name]) for name in model.classes]).max() < 1e-5
    beside = json.loads((tmp_path / "a.csv.json").read_text(encoding="utf-8"))
    assert beside["finished"] is True
    assert beside["faces"] == summary.faces == 8
    assert beside["refused"] == {"empty file": 1, "not an image": 1}
    assert beside["classes"] == {name: want.labels.count(name) for name in model.classes}
    assert beside["mean_confidence"] == pytest.approx(float(want.confidence.mean()), abs=1e-6)


def test_datasets_patterns_and_paths_on_standard_input_are_inputs_too(trained, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures}/3.png\n\n{pictures}/gone.png\n"))
    seen: list[Row] = []
    fercore.predict(
        trained / "run", ["-", f"{pictures}/[12].png", "synthfer:wild?n=14&seed=4"], device="cpu", each=seen.append
    )
    names = [Path(row.input).name for row in seen]
    assert names == ["3.png", "gone.png", "1.png", "2.png", *(f"wild#{i}" for i in range(14))]
    assert "No such file" in seen[1].refused
    flipped: list[Row] = []
    fercore.predict(trained / "run", f"{pictures}/3.png", tta="flip", device="cpu", each=flipped.append)
    image = np.asarray(Image.open(pictures / "3.png").convert("RGB"))
    both = fercore.load(trained / "run", device="cpu").predict([image, image[:, ::-1].copy()]).probs
    assert flipped[0].probs == pytest.approx(both.mean(0), abs=1e-6)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_names_that_are_no_text_are_spelled_out_and_a_file_is_taken_once(trained, pictures, tmp_path, suffix):
    home = tmp_path / "odd"
    home.mkdir()
    for name in (b"bad\xff.png", b"new\nline.png", b"=1+1.png"):
        shutil.copy(pictures / "1.png", os.path.join(os.fsencode(home), name))
    inputs, out = [str(home), f"{home}/./=1+1.png", f"{home}//=1+1.png"], tmp_path / f"a.{suffix}"
    assert fercore.predict(trained / "run", inputs, out=out, device="cpu").frames == 3
    table = pandas.read_csv(out) if suffix == "csv" else pandas.read_parquet(out)
    names = sorted(Path(name).name for name in table["image"])
    assert names == ["=1+1.png", "bad\\udcff.png", "new\nline.png"]
    again: list[Row] = []
    assert fercore.predict(trained / "run", inputs, out=out, resume=True, device="cpu", each=again.append).frames == 3
    assert len(again) <= 1  # that of the last frame, whose rows might not all have been there


@pytest.mark.parametrize("columns", ["fercore", "pyfeat", "openface3"])
def test_every_kind_of_table_holds_the_same(trained, pictures, tmp_path, columns):
    for suffix in ("csv", "jsonl", "parquet"):
        fercore.predict(trained / "run", str(pictures), out=tmp_path / f"a.{suffix}", columns=columns, device="cpu")
    one = pandas.read_csv(tmp_path / "a.csv")
    for other in (pandas.read_json(tmp_path / "a.jsonl", lines=True), pandas.read_parquet(tmp_path / "a.parquet")):
        assert list(other) == list(one)
        numbers = [name for name in one if one[name].dtype.kind == "f" and one[name].notna().any()]
        assert len(numbers) > 7
        assert np.allclose(one[numbers], other[numbers].astype(float), atol=1e-6, equal_nan=True)
        assert (one["refused"].fillna("") == other["refused"].fillna("")).all()
    assert not list(tmp_path.glob(".*"))
    heads = {
        "pyfeat": "input frame FaceRectX FaceRectY FaceRectWidth FaceRectHeight FaceScore"
        " anger disgust fear happiness sadness surprise neutral",
        "openface3": "input frame face_id timestamp confidence x_min y_min x_max y_max success emotion"
        " Neutral Happy Sad Surprise Fear Disgust Anger Contempt",
    }
    if columns in heads:
        assert list(one)[: len(heads[columns].split())] == heads[columns].split()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_interrupted_table_is_readable_and_goes_on_to_the_same_end(trained, pictures, tmp_path, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    read = {"csv": pandas.read_csv, "parquet": pandas.read_parquet}.get(
        suffix, lambda path: pandas.read_json(path, lines=True)
    )
    fercore.predict(trained / "run", str(pictures), out=whole, device="cpu")

    def interrupt(row: Row) -> None:
        if row.input.endswith("4.png"):
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted, match="--resume goes on"):
        fercore.predict(trained / "run", str(pictures), out=cut, device="cpu", each=interrupt)
    assert 4 < len(read(cut)) <= 10
    lines = tmp_path / f".cut.{suffix}.jsonl" if suffix == "parquet" else cut
    with lines.open("ab") as file:
        file.write(lines.read_bytes()[-40:-7])  # as a kill in the middle of a row leaves it
    assert "output file exists" in refusal(trained / "run", str(pictures), out=cut)
    text = refusal(trained / "run", str(pictures), out=cut, resume=True, tta="flip")
    assert text.startswith("the table was begun with other settings: flip")
    seen: list[Row] = []
    fercore.predict(trained / "run", str(pictures), out=cut, resume=True, device="cpu", each=seen.append)
    assert 0 < len(seen) < 10
    pandas.testing.assert_frame_equal(read(cut), read(whole))
    done = fercore.predict(trained / "run", str(pictures), out=cut, resume=True, device="cpu")
    assert done.frames == 10
    pandas.testing.assert_frame_equal(read(cut), read(whole))


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    layout = Layout("fercore", ("anger", "fear"))
    table = TableWriter(tmp_path / "a.csv", layout)
    row = Row("a\nb.png", face=0, probs=(0.25, 0.75), prediction="fear")
    table.write([row])

    class Full:
        def __init__(self, file) -> None:
            self._file = file

        def write(self, content: bytes) -> int:
            if len(content) < 30:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self._file.write(content[:30])

        def __getattr__(self, name: str):
            return getattr(self._file, name)

    monkeypatch.setattr(table, "_file", Full(table._file))
    with pytest.raises(UserInputError, match=r"No space left on device .*a\.csv.*make room there"):
        table.write([row])
    table.close()
    (written,) = rows_of(tmp_path / "a.csv")
    assert (written["image"], written["prediction"], written["fear"]) == ("a\nb.png", "fear", "0.750000")
    again = TableWriter(tmp_path / "a.csv", layout, resume=True)
    again.write([row, row])
    again.close()
    assert len(rows_of(tmp_path / "a.csv")) == 2


def test_faces_of_a_table_are_cut_out_as_data_prepare_does(trained, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / f"in/{name}.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore\n"
        "a.png,60,10,40,50,0.95\na.png,5,5,30,30,0.9\na.png,50,50,30,30,0.2\nb.png,,,,,\n",
        encoding="utf-8",
    )
    seen: list[Row] = []
    fercore.predict(trained / "run", str(tmp_path / "in"), faces=str(boxes), device="cpu", each=seen.append)
    assert [(row.face, row.box, row.score) for row in seen[:2]] == [
        (0, (60, 10, 100, 60), 0.95),
        (1, (5, 5, 35, 35), 0.9),
    ]
    assert [row.refused for row in seen] == ["", "", "no face found"]
    prepare(parse_spec(f"folder:{tmp_path / 'in'}"), tmp_path / "out", PrepareSettings(boxes=str(boxes)))
    (prepared,) = (tmp_path / "out/images").rglob("*.png")
    want = fercore.load(trained / "run", device="cpu").predict(prepared).probs[0]
    assert seen[0].probs == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "keywords", "line"),
    [
        ("nowhere.png", {}, "input not found (nowhere.png); give images, folders"),
        ("*.none", {}, "no file fits the pattern (*.none)"),
        ("{home}/notes.txt", {}, "neither image, video nor SPEC ({home}/notes.txt)"),
        ("{home}", {"columns": "pyfeet"}, "unknown columns 'pyfeet' (--columns); did you mean 'pyfeat'?"),
        ("{home}", {"out": "a.xlsx"}, "unknown table '.xlsx' (a.xlsx); name it .csv, .jsonl or .parquet"),
        ("{home}", {"resume": True}, "nothing to go on with (--resume)"),
        ("{home}", {"out": "{home}/new.csv", "resume": True}, "no table to go on with ({home}/new.csv.json)"),
        ("{home}", {"tta": "turn"}, "unknown value 'turn' (--tta)"),
        ("{home}", {"every": 0}, "every 0 frames (--every)"),
        ("{home}", {"faces": "nobody.csv"}, "boxes not found (nobody.csv)"),
        ("{home}", {"faces": "detect", "detector": "eyes"}, "unknown detector 'eyes'"),
    ],
)
def test_a_mistake_is_one_line(trained, pictures, inputs, keywords, line):
    filled = {k: v.format(home=pictures) if isinstance(v, str) else v for k, v in keywords.items()}
    text = refusal(trained / "run", inputs.format(home=pictures), **filled)
    assert line.format(home=pictures) in text
    assert "\n" not in text


def test_the_command_prints_lines_or_writes_a_table(trained, pictures, tmp_path, capsys, monkeypatch):
    def call(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["fercore", "predict", *words, "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert call(str(trained / "run"), str(pictures / "1.png"), str(pictures / "sub")) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].endswith("empty.jpg: empty file")
    assert "1 face in 3 pictures, 2 pictures without an answer" in err
    assert call(str(trained / "run"), str(pictures), "--out", str(tmp_path / "a.csv")) == 0
    assert "8 faces in 10 pictures" in capsys.readouterr().out
    assert call(str(trained / "run"), str(pictures), "--out", str(tmp_path / "a.csv")) == 2
    assert capsys.readouterr().err.count("output file exists") == 1
    assert call(str(tmp_path / "none"), str(pictures)) == 2
    assert "model not found" in capsys.readouterr().err


def test_work_is_handed_out_in_order_and_never_far_ahead():
    taken, lock = [], threading.Lock()

    def items():
        for k in range(60):
            with lock:
                taken.append(k)
            yield k

    def work(k: int) -> int:
        time.sleep(0.002 * (k % 3))
        return k

    for k, result in enumerate(ordered(work, items(), 3)):
        assert result == k
        with lock:
            assert len(taken) <= k + AHEAD * 3


def test_files_go_to_a_worker_by_some_and_frames_of_a_video_alone():
    kinds = [None, None, None, 0, 1, None]
    frames = [Frame(str(k), lambda: None, number=number) for k, number in enumerate(kinds)]
    assert [[frame.input for frame in piece] for piece in pieces(iter(frames), 2)] == [
        ["0", "1"], ["2"], ["3"], ["4"], ["5"],
    ]  # fmt: skip


def test_a_detector_looks_at_inputs_from_all_over_the_list():
    few = Inputs(("a.png", "b.png", "c.png"))
    assert [frame.input for frame in few.spread(8)] == ["a.png", "b.png", "c.png"]
    many = Inputs(tuple(f"{k}.png" for k in range(100)))
    looked = [int(Path(frame.input).stem) for frame in many.spread(8)]
    assert (looked[0], looked[-1], len(set(looked))) == (0, 99, 8)
    assert max(np.diff(looked)) < 16


def test_pyfeat_reads_its_columns_with_its_own_reader(trained, pictures, tmp_path):
    io_of_feat = pytest.importorskip("feat.utils.io", exc_type=ImportError)
    fercore.predict(trained / "run", str(pictures), out=tmp_path / "a.csv", columns="pyfeat", device="cpu")
    fex = io_of_feat.read_feat(str(tmp_path / "a.csv"))
    want = fercore.load(trained / "run", device="cpu").predict([pictures / f"{k}.png" for k in range(8)])
    assert list(fex.emotions.iloc[:8][list(want.classes)].idxmax(axis=1)) == list(want.labels)
    assert fex.faceboxes.iloc[0].tolist()[:4] == [0, 0, 64, 64]


@pytest.mark.slow
def test_how_far_images_are_is_told_beside_the_target_of_the_run(trained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(trained / "run/model", folder)
    record = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert record["shift"] is None  # 42 images of either side are too few
    assert fercore.predict(folder, "synthfer:wild?n=60", device="cpu").distance is None
    record["shift"] = {"target": 0.05, "spread": 0.01, "n_source": 42, "n_target": 42}
    (folder / "model.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "SHA256SUMS").unlink()
    near = fercore.predict(folder, "synthfer:studio?n=60&seed=8", device="cpu")
    far = fercore.predict(folder, "synthfer:thermal?n=60", device="cpu")
    model = fercore.load(folder, device="cpu")
    assert len(model.source_features["main"]) == 42
    assert near.distance.n == 60
    assert near.distance.value < far.distance.value
    assert near.distance.limit == pytest.approx(0.05 + 2 * 0.01 * np.sqrt(1 + 42 / 60))
    assert ("warning" in far.lines()[-1]) == (far.distance.value > far.distance.limit)
    (folder / "features.safetensors").write_bytes(b"x")
    with pytest.raises(UserInputError, match=r"cannot read features\.safetensors"):
        fercore.load(folder)
    (folder / "features.safetensors").unlink()
    assert fercore.predict(folder, "synthfer:wild?n=60", device="cpu").distance is None
