"""Every official layout, in miniature and from SynthFER faces, is read back; every broken one is named in one line."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts

from fercore.data.domains import read_domain
from fercore.data.facts import FACTS
from fercore.data.formats import FORMATS
from fercore.data.formats.expw import SIZES, stratified
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.data.table import Table
from fercore.errors import UserInputError


def read(spec: str) -> Table:
    return read_domain(parse_spec(spec))[0]


def rows(table: Table) -> Counter:
    labels = [CANONICAL[label] if label >= 0 else "?" for label in table.labels]
    return Counter(zip(labels, table.split, table.subjects, strict=True))


def counts(table: Table) -> dict[str, int]:
    return table.counts(CANONICAL)


def error_of(spec: str) -> str:
    with pytest.raises(UserInputError) as caught:
        read(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left_out(spec: str) -> dict[str, int]:
    return dict(read_domain(parse_spec(spec))[1].rows.left_out)


def same_pixels(table: Table, paint: layouts.Painter, box: tuple[int, int, int, int] | None = None) -> None:
    left, top, right, bottom = box or (0, 0, 24, 24)
    for i, key in enumerate(table.keys):
        expected = paint.pixels[key.partition("#")[0]][top:bottom, left:right].astype(int)
        assert np.abs(table.read(i).astype(int) - expected).mean() < (4 if key.endswith(("jpg", "jpeg")) else 1e-9)


def test_ckplus_frames(tmp_path: Path):
    paint = layouts.ckplus(tmp_path)
    table = read(f"ckplus:{tmp_path}")
    assert counts(table) == {"disgust": 3, "anger": 3, "surprise": 3, "contempt": 3, "neutral": 4}
    same_pixels(table, paint)
    assert table.subjects.count("S010") == 8
    assert set(table.sequences) == {"S005_001", "S010_002", "S010_004", "S011_001"}
    assert left_out(f"ckplus:{tmp_path}") == {"sequence without a label": 1}
    apex = [Path(key).stem[-2:] for key, seq in zip(table.keys, table.sequences, strict=True) if seq == "S005_001"]
    assert apex == ["01", "03", "04", "10"]


@pytest.mark.parametrize(
    ("options", "neutral", "total"),
    [
        ("neutral=per_sequence&contempt=drop", 3, 12),
        ("neutral=per_subject&contempt=drop", 4, 13),
        ("neutral=per_subject", 4, 16),
        ("neutral=none", 0, 12),
        ("neutral=none&last_n=1", 0, 4),
        ("last_n=9", 4, 20),
        ("neutral=none&last_n=9", 0, 20),
    ],
)
def test_ckplus_options(tmp_path: Path, options: str, neutral: int, total: int):
    layouts.ckplus(tmp_path)
    table = read(f"ckplus:{tmp_path}?{options}")
    assert (counts(table).get("neutral", 0), len(table)) == (neutral, total)


def test_ck48(tmp_path: Path):
    table = read(f"ckplus:{layouts.ck48(tmp_path).root}")
    assert counts(table) == dict.fromkeys([name for name in CANONICAL if name != "neutral"], 3)
    assert table.subjects.count("S101") == 3
    assert len(read(f"ckplus:{tmp_path}?contempt=drop")) == 18


def test_ckplus_faults(tmp_path: Path):
    layouts.ckplus(tmp_path / "a")
    bad = tmp_path / "a/Emotion/S005/001/S005_001_00000010_emotion.txt"
    for text in ("9.0", "x", "", "nan", "1.5", "-1"):
        bad.write_text(text)
        assert error_of(f"ckplus:{tmp_path}/a").startswith(f"emotion {text!r} is no code from 0 to 7 ({bad})")
    (bad.parent / "S005_001_00000011_emotion.txt").write_text("3")
    assert "2 emotion files of one sequence" in error_of(f"ckplus:{tmp_path}/a")
    layouts.Painter(tmp_path / "b")("cohn-kanade-images/S005/001/S005_001_00000001.png")
    assert "no folder Emotion/ beside cohn-kanade-images/" in error_of(f"ckplus:{tmp_path}/b")
    layouts.Painter(tmp_path / "c")("anger/face.png")
    assert f"without subject and sequence ({tmp_path}/c/anger/face.png)" in error_of(f"ckplus:{tmp_path}/c")
    layouts.ckplus(tmp_path / "d")
    (tmp_path / "d/cohn-kanade-images/S005").rename(tmp_path / "elsewhere")
    assert len(read_domain(parse_spec(f"ckplus:{tmp_path}/d"))[1].rows.missing) == 1


def test_jaffe(tmp_path: Path):
    paint = layouts.jaffe(tmp_path)
    table = read(f"jaffe:{tmp_path}")
    assert counts(table) == dict.fromkeys(layouts.SEVEN, 2)
    assert Counter(table.subjects) == {"KA": 7, "YM": 7}
    same_pixels(table, paint)
    paint("KA.XX1.39.tiff")
    assert f"without subject and expression ({tmp_path}/KA.XX1.39.tiff)" in error_of(f"jaffe:{tmp_path}")
    (tmp_path / "nothing").mkdir()
    assert "no usable sample" in error_of(f"jaffe:{tmp_path}/nothing")


def test_oulu_spectra_and_lights(tmp_path: Path):
    paint = layouts.oulu(tmp_path)
    layouts.oulu(tmp_path / "OriginalImg", "NI", "Dark")
    table = read(f"oulu:{tmp_path}")
    assert counts(table) == {**dict.fromkeys(layouts.SEVEN[:6], 6), "neutral": 12}
    assert set(table.subjects) == {"P001", "P002"}
    same_pixels(table, paint)
    frames = [Path(key).stem for key, seq in zip(table.keys, table.sequences, strict=True) if seq == "P001/Anger"]
    assert frames == ["000", "003", "004", "005"]
    assert len(read(f"oulu:{tmp_path}?spectrum=NI&light=Dark")) == 48
    assert "no folder VL/Dark" in error_of(f"oulu:{tmp_path}?light=dark")
    assert "option spectrum='uv' is unknown" in error_of(f"oulu:{tmp_path}?spectrum=uv")
    (tmp_path / "VL").rename(tmp_path / "VL_Acropped")
    assert counts(read(f"oulu:{tmp_path}?images=cropped&neutral=per_subject"))["neutral"] == 2
    paint("VL_Acropped/Strong/P001/Wut/000.jpeg")
    assert "folder that is no expression" in error_of(f"oulu:{tmp_path}?images=cropped")
    (tmp_path / "VL_Acropped/Strong/A other").mkdir()
    assert "folder that is no subject" in error_of(f"oulu:{tmp_path}?images=cropped")


def test_sfew(tmp_path: Path):
    paint = layouts.sfew(tmp_path / "a")
    table = read(f"sfew:{tmp_path}/a")
    assert Counter(table.split) == {"train": 7, "val": 7}
    assert counts(table) == dict.fromkeys(layouts.SEVEN, 2)
    same_pixels(table, paint)
    assert left_out(f"sfew:{tmp_path}/a") == {"test part without labels": 3}
    assert Counter(read(f"sfew:{tmp_path}/a?test=unlabelled").split)["test"] == 3
    layouts.sfew(tmp_path / "b", "_Aligned_Faces")
    assert len(read(f"sfew:{tmp_path}/b")) == 14
    paint("Train/Wut/x.png")
    assert f"folder that is no expression ({tmp_path}/a/Train/Wut)" in error_of(f"sfew:{tmp_path}/a")
    layouts.Painter(tmp_path / "c")("Train/Angry/x.png")
    assert "no folder Val/" in error_of(f"sfew:{tmp_path}/c")


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
        ("a.png 0 1 2 3 4 5 9", "no usable sample: labels '9' are no expressions"),
    ],
)
def test_expw_faults(tmp_path: Path, line: str, message: str):
    file = layouts.Painter(tmp_path).text("label.lst", line + "\n")
    (tmp_path / "image").mkdir()
    assert error_of(f"expw:{tmp_path}").startswith(message.format(file=file))


def test_a_box_outside_the_image_is_unusable(tmp_path: Path):
    from fercore.data.preflight import inspect

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
    assert left_out(f"affectnet:{tmp_path}") == {"8": 1, "9": 1, "10": 1}
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
    assert left_out(f"affectnet:{tmp_path}?per_class=2") == {"beyond per_class": 3}
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
    assert "annotation cannot be opened" in error_of(f"affectnet:{tmp_path}/d")


def test_nvie_spectra_and_pairs(tmp_path: Path):
    paint = layouts.nvie(tmp_path)
    file = tmp_path / "nvie.csv"
    table = read(f"nvie:{file}")
    assert counts(table) == {**dict.fromkeys(layouts.SEVEN[:6], 2), "fear": 3}
    same_pixels(table, paint)
    assert len(read(f"nvie:{file}?spectrum=thermal")) == 12
    assert len(read(f"nvie:{file}?spectrum=all&paired=true")) == 24
    assert left_out(f"nvie:{file}?paired=true") == {"spectrum thermal": 12, "frame without a partner": 1}
    file.write_text(layouts.NVIE + "a.png,fear,uv,,1,q,\n")
    assert error_of(f"nvie:{file}") == f"domain 'uv' is no spectrum ({file}, line 2); write visible or thermal"
    file.write_text(layouts.NVIE + "a.png,fear,ir,,1,q,noon\n")
    assert error_of(f"nvie:{file}") == f"time 'noon' is no number ({file}, line 2)"


def test_nvie_pairs_by_time(tmp_path: Path):
    from fercore.data.formats.nvie import Frame, pairs

    def frame(spectrum: str, time: float | None) -> Frame:
        return Frame(spectrum, "q", time, {"label": "fear"}, "")

    frames = [frame("visible", 0.0), frame("visible", 1.0), frame("thermal", 1.1), frame("thermal", 5.0)]
    assert sorted(pairs(frames)) == [(0, 3), (1, 2)]
    assert sorted(pairs([*frames[:2], frame("thermal", None)])) == [(0, 2)]


def test_lacmfer_lists(tmp_path: Path):
    paint = layouts.lacmfer(tmp_path)
    table = read(f"lacmfer:{tmp_path}/data?domain=ck")
    names = [CANONICAL[label] for label in table.labels]
    assert names == ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert table.subjects[:2] == ("S000", "S001")
    same_pixels(table, paint)
    oulu = f"lacmfer:{tmp_path}/data?domain=oulu"
    assert (len(read(oulu)), left_out(oulu)) == (2, {"line listed before": 1})
    assert len(read(f"{oulu}&duplicates=keep")) == 3
    raf = f"lacmfer:{tmp_path}/data?domain=raf"
    assert Counter(read(raf).split) == {"train": 4, "test": 2}
    assert left_out(raf) == {"training line that is a test line": 2}
    assert Counter(read(f"{raf}&overlap=keep").split) == {"train": 6, "test": 2}
    (tmp_path / "datasets").rename(tmp_path / "sets")
    assert "listed files are missing" in error_of(raf)
    (tmp_path / "sets").rename(tmp_path / "datasets")
    (tmp_path / "data").rename(tmp_path / "lists")
    assert len(read(f"lacmfer:{tmp_path}/lists?domain=ck&root={tmp_path}/datasets")) == 7
    assert "option domain is missing" in error_of(f"lacmfer:{tmp_path}/lists")
    assert "no list Aff.txt" in error_of(f"lacmfer:{tmp_path}/lists?domain=aff")
    file = paint.text("lists/CK.txt", "only.png\n")
    assert f"line 'only.png' without a label ({file}, line 1)" in error_of(f"lacmfer:{tmp_path}/lists?domain=ck")
    paint.text("lists/CK.txt", "../a/../../../etc/x.png 1\n")
    assert "leads out of the dataset's folder" in error_of(f"lacmfer:{tmp_path}/lists?domain=ck")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("raf", {("happiness", "train", ""): 1, ("happiness", "test", ""): 1}),
        ("afe", {("anger", "train", ""): 1, ("neutral", "val", ""): 1}),
        ("ck", {("surprise", "train", "S010"): 1, ("surprise", "val", "S010"): 1}),
        ("jaffe", {("anger", "", "KA"): 1}),
        ("sfew", {("anger", "train", ""): 1, ("anger", "val", ""): 1}),
        ("fer2013", {("anger", "train", ""): 1, ("anger", "val", ""): 1}),
        ("expw", {("neutral", "train", ""): 1, ("neutral", "val", ""): 1}),
    ],
)
def test_cdfer_datasets(tmp_path: Path, dataset: str, expected: dict):
    layouts.cdfer(tmp_path)
    assert rows(read(f"cdfer:{tmp_path}?dataset={dataset}")) == expected


def test_cdfer_crops_and_faults(tmp_path: Path):
    paint = layouts.cdfer(tmp_path)
    spec = f"cdfer:{tmp_path}?dataset=raf"
    assert read(spec).read(0).shape == (18, 18, 3)
    assert read(f"{spec}&pad=0").read(0).shape == (16, 16, 3)
    assert left_out(spec) == {"no landmark file": 1}
    assert left_out(f"cdfer:{tmp_path}?dataset=afe") == {}
    assert read_domain(parse_spec(f"cdfer:{tmp_path}?dataset=afe"))[1].rows.unknown == {"8": 2}
    bad = paint.text("RAF/basic/Annotation/boundingbox/train_00001.txt", "4 4 20\n")
    assert error_of(spec) == f"box '4 4 20' is not four numbers ({bad})"
    file = paint.text("FER2013/list/train_list.txt", "x.jpg\n")
    assert error_of(f"cdfer:{tmp_path}?dataset=fer2013") == f"line with 1 words instead of 2 or more ({file}, line 1)"
    assert "option dataset is missing" in error_of(f"cdfer:{tmp_path}")
    (tmp_path / "JAFFE").rename(tmp_path / "else")
    assert "no folder JAFFE" in error_of(f"cdfer:{tmp_path}?dataset=jaffe")


def test_non_ascii_paths_and_windows_separators(tmp_path: Path):
    root = tmp_path / "Gesichter \u00e4\u00f6\u00fc \u8868\u60c5"
    paint = layouts.jaffe(root)
    same_pixels(read(f"jaffe:{root}"), paint)
    lists = tmp_path / "listen \u00e9"
    paint = layouts.lacmfer(lists)
    assert len(read(f"lacmfer:{lists}/data?domain=oulu")) == 2
    assert parse_spec("jaffe:C:\\data\\jaffe").path == "C:\\data\\jaffe"


def test_published_facts_fit_the_spec_and_add_up():
    own = {"synthfer", "folder", "list", "manifest"}
    assert set(FACTS) == set(FORMATS) - own
    for name, facts in FACTS.items():
        assert facts.page.startswith("http")
        assert set(facts.classes) <= set(CANONICAL)
        for published in facts.published:
            assert set(published.when) <= set(FORMATS[name].options)
            for part, by_class in published.counts.items():
                assert set(by_class) <= set(facts.classes)
                if part in published.sizes:
                    assert sum(by_class.values()) == published.sizes[part], (name, part)
    ck = FACTS["ckplus"]
    assert ck.fitting(parse_spec("ckplus:x?neutral=per_subject&contempt=drop")).sizes == {"": 1050}
    assert ck.fitting(parse_spec("ckplus:x")).sizes == {"": 1308}
    assert ck.fitting(parse_spec("ckplus:x?last_n=5")) is None
    assert ck.fitting(parse_spec("ckplus:x?limit=5")) is None


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"synthfer"}))
def test_a_missing_path_is_named(tmp_path: Path, form: str):
    assert error_of(f"{form}:{tmp_path}/none").startswith(f"path not found: {tmp_path}/none")
