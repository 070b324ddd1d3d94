"""Split files are seeded, subject-wise and hashed; any dataset survives its conversion to a manifest."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts

from fercore.config import DataSettings
from fercore.data.domains.domain_set import read_domain
from fercore.data.domains.sealed import sealed
from fercore.data.domains.split import divide, folds, parse_shares, read_split, split_record, write_split
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.datasets.convert import convert
from fercore.errors import UserInputError
from tests.loading import load_domains

FACES = "synthfer:wild?n=400&seed=2"
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def read(spec: str):
    return read_domain(parse_spec(spec))[0]


def test_subjects_stay_together_and_shares_hold():
    table = read(FACES)
    parts = divide(table, {"train": 0.6, "test": 0.4}, by="subject", seed=0)
    sides = {}
    for subject, part in zip(table.subjects, parts, strict=True):
        assert sides.setdefault(subject, part) == part
    assert abs(parts.count("train") - 240) <= 30
    assert parts == divide(table, {"train": 0.6, "test": 0.4}, by="subject", seed=0)
    assert parts != divide(table, {"train": 0.6, "test": 0.4}, by="subject", seed=1)


@pytest.mark.parametrize("by", ["class", "none"])
def test_single_samples_divide_to_the_share(by: str):
    table = read(FACES)
    parts = divide(table, SHARES, by=by, seed=3)
    assert [parts.count(name) for name in SHARES] == pytest.approx([280, 40, 80], abs=4)
    if by == "class":
        for label in range(7):
            of = Counter(part for part, known in zip(parts, table.labels.tolist(), strict=True) if known == label)
            n = sum(of.values())
            assert [of[name] for name in SHARES] == pytest.approx([0.7 * n, 0.1 * n, 0.2 * n], abs=2.1)


def test_folds_test_everyone_once():
    table = read(FACES)
    drawn = folds(table, 5, by="subject", seed=0)
    assert np.sum([[part == "test" for part in fold] for fold in drawn], axis=0).tolist() == [1] * 400
    for fold in drawn:
        tested = {s for s, part in zip(table.subjects, fold, strict=True) if part == "test"}
        assert not tested & {s for s, part in zip(table.subjects, fold, strict=True) if part == "train"}


def test_a_split_file_divides_a_domain(tmp_path: Path):
    layouts.jaffe(tmp_path / "jaffe")
    table = read(f"jaffe:{tmp_path}/jaffe")
    parts = divide(table, {"train": 1, "test": 1}, by="subject", seed=0)
    file = tmp_path / "s.json"
    write_split(split_record(table, parts, by="subject", seed=0), file)
    divided = read(f"jaffe:{tmp_path}/jaffe?split_file={file}")
    assert divided.split == tuple(parts)
    target = f"jaffe:{tmp_path}/jaffe?split_file={file}"
    domains = load_domains(DataSettings(sources=("synthfer:studio?n=70",), target=target), seed=0)
    assert domains.report["target"]["division"] == "parts"
    assert {key.rpartition("/")[2][:2] for key in domains.test.keys} == {
        key.rpartition("/")[2][:2] for key, part in zip(table.keys, parts, strict=True) if part == "test"
    }
    (tmp_path / "jaffe").rename(tmp_path / "moved")
    assert read(f"jaffe:{tmp_path}/moved?split_file={file}").split == tuple(parts)


def test_split_file_faults(tmp_path: Path):
    layouts.jaffe(tmp_path / "jaffe")
    spec = f"jaffe:{tmp_path}/jaffe"
    table = read(spec)
    file = tmp_path / "s.json"
    write_split(split_record(table, ["train", "test"] * 7, by="none", seed=0), file)

    def message(path: Path = file) -> str:
        with pytest.raises(UserInputError) as caught:
            read(f"{spec}?split_file={path}")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(UserInputError, match="output file exists"):
        write_split({}, file)
    content = file.read_text()
    file.write_text(content.replace('"test"', '"train"', 1))
    assert "split file changed since it was written" in message()
    file.write_text(content)
    (tmp_path / "jaffe/KA.AN1.1.tiff").rename(tmp_path / "gone.tiff")
    assert "split file of other data: 'KA.AN1.1.tiff' is not in the dataset" in message()
    (tmp_path / "gone.tiff").rename(tmp_path / "jaffe/KA.HA9.1.tiff")
    assert "split file of other data: 'KA.HA9.1.tiff' is not in the split file" in message()
    file.write_text("{")
    assert "cannot read split file" in message()
    file.write_text('{"kind": "x", "parts": {}}')
    assert "not a split file" in message()
    record = json.loads(content)
    record["parts"] = dict.fromkeys(record["parts"], "elsewhere")
    record.pop("sha256")
    file.write_text(json.dumps(sealed(record)))
    assert "split file is damaged: parts." in message()
    assert "split file not found" in message(tmp_path / "none.json")


def test_division_faults():
    table = read("synthfer:wild?n=20")
    with pytest.raises(UserInputError, match="10 subjects for 11 parts"):
        divide(table, {str(k): 1.0 for k in range(11)}, by="subject", seed=0)
    nobody = read("synthfer:wild?n=20").subset(range(20))
    nobody = type(nobody)(**{**nobody.__dict__, "subjects": ("",) * 20})
    with pytest.raises(UserInputError, match="subject of wild#0 is not known"):
        divide(nobody, SHARES, by="subject", seed=0)
    with pytest.raises(UserInputError, match="1 folds"):
        folds(table, 1, by="class", seed=0)
    for text, what in (
        ("train=1", "fewer than two parts"), ("a=1,test=1", "cannot read part 'a=1'"),
        ("train=x,test=1", "no positive number"), ("train=nan,test=1", "no positive number"),
        ("train=1,train=1", "cannot read part"), ("", "cannot read part ''"),
    ):  # fmt: skip
        with pytest.raises(UserInputError, match=what):
            parse_shares(text)
    assert parse_shares("train=0.8, test=0.2") == {"train": 0.8, "test": 0.2}


def test_read_split_gives_back_what_was_written(tmp_path: Path):
    table = read(FACES)
    record = split_record(table, divide(table, SHARES, by="class", seed=0), by="class", seed=0, shares=SHARES)
    write_split(record, tmp_path / "deep" / "s.json")
    again = read_split(tmp_path / "deep" / "s.json")
    assert again == record


def rows_of(table) -> list:
    labels = [CANONICAL[label] if label >= 0 else "" for label in table.labels]
    return sorted(zip(labels, table.split, table.subjects, table.sequences, strict=True))


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (layouts.ckplus, "ckplus:{}"),
        (layouts.sfew, "sfew:{}?test=unlabelled"),
        (layouts.expw, "expw:{}"),
        (layouts.affectnet_csv, "affectnet:{}"),
        (layouts.affectnet_npy, "affectnet:{}"),
        (layouts.lacmfer, "lacmfer:{}/data?domain=raf"),
        (layouts.cdfer, "cdfer:{}?dataset=raf"),
    ],
)
def test_a_manifest_says_the_same(tmp_path: Path, make, spec: str, copy: bool):
    make(tmp_path / "original")
    table = read(spec.format(tmp_path / "original"))
    made = convert(parse_spec(spec.format(tmp_path / "original")), tmp_path / "out", copy=copy).spec
    again = read(made)
    assert rows_of(again) == rows_of(table)
    for i in range(len(table)):
        assert np.array_equal(again.read(i), table.read(i))
    if copy:
        assert made == f"manifest:{tmp_path}/out/manifest.csv"


def test_conversion_refuses_a_full_folder_and_leaves_nothing_half_done(tmp_path: Path):
    layouts.jaffe(tmp_path / "jaffe")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(UserInputError, match="the output folder is not empty"):
        convert(parse_spec(f"jaffe:{tmp_path}/jaffe"), tmp_path / "out", copy=True)
    (tmp_path / "image").mkdir()
    layouts.Painter(tmp_path / "e")("image/a.png")
    layouts.Painter(tmp_path / "e").text("label.lst", "a.png 1 90 90 99 99 5 6\n")
    with pytest.raises(UserInputError, match="no image can be read, the first is .*face box 90,90,99,99 outside"):
        convert(parse_spec(f"expw:{tmp_path}/e"), tmp_path / "fresh", copy=False)
    assert not (tmp_path / "fresh").exists()
    assert not list(tmp_path.glob(".fresh*"))
    (tmp_path / "file").write_text("x")
    for where in (tmp_path / "file" / "out", Path("/proc/out")):
        with pytest.raises(UserInputError, match="cannot write"):
            convert(parse_spec(f"jaffe:{tmp_path}/jaffe"), where, copy=False)


def test_nothing_is_written_into_the_dataset(tmp_path: Path):
    layouts.jaffe(tmp_path / "faces")
    spec = parse_spec(f"jaffe:{tmp_path}/faces")
    with pytest.raises(UserInputError, match="lies in the dataset"):
        convert(spec, tmp_path / "faces" / "new" / "deep", copy=True)
    assert not (tmp_path / "faces" / "new").exists()
    convert(spec, tmp_path / "faces2", copy=True)


def test_conversion_leaves_unreadable_images_out_and_says_what_was_missing(tmp_path: Path):
    paint = layouts.Painter(tmp_path / "e")
    paint("image/a.png")
    lines = ["a.png 0 1 1 9 9 5 6", "a.png 1 90 90 99 99 5 6", "gone.png 0 1 1 9 9 5 6", "a.png 2 1 1 9 9 5 12"]
    paint.text("label.lst", "\n".join(lines) + "\n")
    done = convert(parse_spec(f"expw:{tmp_path}/e"), tmp_path / "out", copy=False)
    assert (done.n, len(read(done.spec))) == (1, 1)
    assert done.unusable == ((f"{tmp_path}/e/image/a.png#1", done.unusable[0][1]),)
    assert "outside" in done.unusable[0][1]
    assert done.notes == (
        f"listed files missing: 1, first {tmp_path}/e/image/gone.png",
        "labels nobody knows: '12' (1); images left out for it: 1",
    )


@pytest.mark.parametrize("name", [b"J\xe4ger.png", b"back\\slash.png", b" blank.png"])
def test_names_that_a_manifest_cannot_say(tmp_path: Path, name: bytes):
    layouts.Painter(tmp_path)("d/anger/x.png")
    folder = os.fsencode(tmp_path / "d" / "anger")
    os.rename(folder + b"/x.png", folder + b"/" + name)
    with pytest.raises(UserInputError, match="a manifest cannot point to a file of this name.*--copy"):
        convert(parse_spec(f"folder:{tmp_path}/d"), tmp_path / "out", copy=False)
    assert len(read(convert(parse_spec(f"folder:{tmp_path}/d"), tmp_path / "out", copy=True).spec)) == 1


def test_folders_with_the_marks_of_a_spec(tmp_path: Path):
    layouts.jaffe(tmp_path / "a&b")
    with pytest.raises(UserInputError, match="a spec cannot name this folder as its root"):
        convert(parse_spec(f"jaffe:{tmp_path}/a&b"), tmp_path / "out", copy=False)
    for copy, source in ((True, "a&b"), (False, "j")):
        layouts.jaffe(tmp_path / "j")
        done = convert(parse_spec(f"jaffe:{tmp_path}/{source}"), tmp_path / f"what?{source}", copy=copy)
        assert len(read(done.spec)) == 14


def test_a_split_file_keeps_names_that_are_no_utf_8(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    for k in range(4):
        paint(f"d/{('anger', 'fear')[k % 2]}/ü{k}.png")
    os.rename(tmp_path / "d/anger/ü0.png", os.fsencode(tmp_path / "d" / "anger") + b"/\xfc0.png")
    table = read(f"folder:{tmp_path}/d")
    parts = divide(table, {"train": 1.0, "test": 1.0}, by="class", seed=0)
    write_split(split_record(table, parts), tmp_path / "s.json")
    assert "ü1.png" in (tmp_path / "s.json").read_text()
    assert list(read(f"folder:{tmp_path}/d?split_file={tmp_path}/s.json").split) == parts


@pytest.mark.parametrize("count", [-1, 1, 15, 10**12])
def test_as_many_folds_as_there_can_be(tmp_path: Path, count: int):
    layouts.jaffe(tmp_path)
    with pytest.raises(UserInputError, match=f"{count} folds .--folds.; give from 2 to 14"):
        folds(read(f"jaffe:{tmp_path}"), count, by="class", seed=0)
