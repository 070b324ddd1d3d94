"""Datasets of the web and of films, ExpW and AffectNet: official layouts are read back; broken ones are one line."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts
from reading import counts, error_of, read, same_pixels, skipped

from fercore.data.formats.expw import SIZES, stratified
from fercore.data.labels import CANONICAL
from fercore.errors import UserInputError


def test_expw_crops(tmp_path: Path):
    paint = layouts.expw(tmp_path)
    table = read(f"expw:{tmp_path}?parts=none")
    assert counts(table) == dict.fromkeys(layouts.SEVEN, 2)
    assert set(table.split) == {""}
    first = table.keys.index(f"{tmp_path}/data/image/origin/expw 0 face.png#0")
    expected = paint.pixels[f"{tmp_path}/data/image/origin/expw 0 face.png"]
    assert (table.read(first) == expected[2:22, 4:20]).all()
    assert (table.read(first + 1) == expected[3:21, 4:20]).all()
    assert len({table.reader.digest(row) for row in range(14)}) == 14
    assert set(read(f"expw:{tmp_path}").split) <= {"train", "val", "test"}


def test_expw_stratified_parts():
    real = [3671, 3995, 1088, 30537, 10559, 7060, 34883]
    labels = [label for label, n in enumerate(real) for _ in range(n)]
    parts = stratified(labels, 0)
    assert Counter(parts) == SIZES
    train = Counter(label for label, part in zip(labels, parts, strict=True) if part == "train")
    for label, n in enumerate(real):
        assert abs(train[label] - n * SIZES["train"] / 91_793) < 4
    assert parts == stratified(labels, 0)
    assert parts != stratified(labels, 1)
    assert Counter(stratified([0] * 91_793, 0)) == SIZES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 0 1 2 3 4 5", "line with 7 words instead of 8 ({file}, line 1)"),
        ("a.png 0 1 x 3 4 5 6", "box '1 x 3 4 5' is not numbers ({file}, line 1)"),
        ("a.png 0 1 inf 3 4 5 6", "box '1 inf 3 4 5' is not numbers ({file}, line 1)"),
        ("../a.png 0 1 2 3 4 5 6", "path '../a.png' leads out of the dataset's folder ({file}, line 1)"),
        ("a.png 0 1 2 3 4 5 9", "no usable sample: labels that are no expressions: '9' (1)"),
    ],
)
def test_expw_faults(tmp_path: Path, line: str, message: str):
    file = layouts.Painter(tmp_path).text("label.lst", line + "\n")
    (tmp_path / "image").mkdir()
    assert error_of(f"expw:{tmp_path}").startswith(message.format(file=file))


def test_a_box_outside_the_image_is_unusable(tmp_path: Path):
    from fercore.data.images.preflight import inspect

    paint = layouts.Painter(tmp_path)
    paint("image/a.png")
    paint.text("label.lst", "a.png 0 30 30 60 60 5 6\na.png 1 0 0 90 90 5 6\na.png 2 9 9 3 3 5 6\n")
    table = read(f"expw:{tmp_path}?parts=none")
    found = inspect(table)
    assert [reason for _, reason in found.unusable] == [
        "face box 30,30,60,60 outside the 24x24 image",
        "face box 9,9,3,3 outside the 24x24 image",
    ]
    assert table.read(1).shape == (24, 24, 3)
    with pytest.raises(UserInputError, match="face box 30,30,60,60 outside"):
        table.read(0)


def test_affectnet_csv(tmp_path: Path):
    paint = layouts.affectnet_csv(tmp_path)
    table = read(f"affectnet:{tmp_path}")
    assert counts(table) == dict.fromkeys(CANONICAL, 2)
    assert Counter(table.split) == {"train": 8, "val": 8}
    assert skipped(f"affectnet:{tmp_path}") == {"8": 1, "9": 1, "10": 1}
    same_pixels(table, paint, (2, 3, 18, 21))
    same_pixels(read(f"affectnet:{tmp_path}?crop=none"), paint)
    moved = tmp_path / "elsewhere"
    (tmp_path / "Manually_Annotated_Images").rename(moved)
    assert "no usable sample" in error_of(f"affectnet:{tmp_path}")
    assert len(read(f"affectnet:{tmp_path}?images={moved}")) == 16


def test_affectnet_npy_and_folders(tmp_path: Path):
    for name, make in (("npy", layouts.affectnet_npy), ("folders", layouts.affectnet_folders)):
        paint = make(tmp_path / name)
        table = read(f"affectnet:{tmp_path / name}")
        assert counts(table) == dict.fromkeys(CANONICAL, 2)
        assert Counter(table.split) == {"train": 8, "val": 8}
        same_pixels(table, paint)


def test_affectnet_names_its_labels_right(tmp_path: Path):
    layouts.affectnet_folders(tmp_path)
    table = read(f"affectnet:{tmp_path}")
    named = {Path(key).parent.name: CANONICAL[label] for key, label in zip(table.keys, table.labels, strict=True)}
    order = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
    assert named == {str(code): name for code, name in enumerate(order)}


def test_affectnet_per_class(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    for part in ("train", "val"):
        for k in range(5):
            paint(f"{part}/1/{k}.png")
    table = read(f"affectnet:{tmp_path}?per_class=2&seed=4")
    assert Counter(table.split) == {"train": 2, "val": 5}
    assert table.keys == read(f"affectnet:{tmp_path}?per_class=2&seed=4").keys
    assert skipped(f"affectnet:{tmp_path}?per_class=2") == {"beyond per_class": 3}
    assert len({read(f"affectnet:{tmp_path}?per_class=2&seed={s}").keys for s in range(6)}) > 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "annotation empty file"),
        (b"abc", "annotation is no array of one expression code"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "annotation is no array of one expression code"),
    ],
)
def test_affectnet_npy_faults(tmp_path: Path, content: bytes, message: str):
    layouts.affectnet_npy(tmp_path)
    bad = tmp_path / "train_set/annotations/10_exp.npy"
    bad.write_bytes(content)
    assert error_of(f"affectnet:{tmp_path}").startswith(message)
    assert f"({bad})" in error_of(f"affectnet:{tmp_path}")


def test_affectnet_never_unpickles(tmp_path: Path):
    layouts.affectnet_npy(tmp_path)
    np.save(tmp_path / "train_set/annotations/10_exp.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    assert "annotation is no array" in error_of(f"affectnet:{tmp_path}")


def test_affectnet_faults(tmp_path: Path):
    layouts.affectnet_csv(tmp_path / "a")
    file = tmp_path / "a/training.csv"
    file.write_text(layouts.AFFECT_HEADER + "a.png,x,3,16,18,,1,0,0\n")
    assert error_of(f"affectnet:{tmp_path}/a") == f"face box 'x 3 16 18' is not four numbers ({file}, line 2)"
    file.write_text("path,label\n")
    assert "no column 'subdirectory_filepath'" in error_of(f"affectnet:{tmp_path}/a")
    (tmp_path / "b").mkdir()
    assert "none of AffectNet's releases" in error_of(f"affectnet:{tmp_path}/b")
    (tmp_path / "c/train_set/images").mkdir(parents=True)
    assert "no folder annotations/" in error_of(f"affectnet:{tmp_path}/c")
    layouts.affectnet_npy(tmp_path / "d")
    (tmp_path / "d/val_set/annotations/12_exp.npy").unlink()
    assert "annotation cannot be loaded" in error_of(f"affectnet:{tmp_path}/d")
