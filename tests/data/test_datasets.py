"""Datasets recorded in a laboratory: official layouts in miniature are read back; broken ones are one line."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts
from reading import counts, error_of, read, rows, same_pixels, skipped

from fercore.data.domains.domain_set import read_domain
from fercore.data.labels import CANONICAL
from fercore.data.spec import FORMATS, parse_spec


def test_ckplus_frames(tmp_path: Path):
    paint = layouts.ckplus(tmp_path)
    table = read(f"ckplus:{tmp_path}")
    assert counts(table) == {"disgust": 3, "anger": 3, "surprise": 3, "contempt": 3, "neutral": 4}
    same_pixels(table, paint)
    assert table.subjects.count("S010") == 8
    assert set(table.sequences) == {"S005_001", "S010_002", "S010_004", "S011_001"}
    assert skipped(f"ckplus:{tmp_path}") == {"sequence without a label": 1}
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
    assert skipped(f"sfew:{tmp_path}/a") == {"test part without labels": 3}
    assert Counter(read(f"sfew:{tmp_path}/a?test=unlabelled").split)["test"] == 3
    layouts.sfew(tmp_path / "b", "_Aligned_Faces")
    assert len(read(f"sfew:{tmp_path}/b")) == 14
    layouts.sfew(tmp_path / "a", "_Aligned_Faces")
    assert [key.count("Aligned") for key in read(f"sfew:{tmp_path}/a").keys] == [0] * 14  # not both of them
    assert [key.count("Aligned") for key in read(f"sfew:{tmp_path}/a?images=aligned").keys] == [1] * 14
    paint("Train/Wut/x.png")
    assert f"folder that is no expression ({tmp_path}/a/Train/Wut)" in error_of(f"sfew:{tmp_path}/a")
    layouts.Painter(tmp_path / "c")("Train/Angry/x.png")
    assert "no folder Val/" in error_of(f"sfew:{tmp_path}/c")


def test_nvie_spectra_and_pairs(tmp_path: Path):
    paint = layouts.nvie(tmp_path)
    file = tmp_path / "nvie.csv"
    table = read(f"nvie:{file}")
    assert counts(table) == {**dict.fromkeys(layouts.SEVEN[:6], 2), "fear": 3}
    same_pixels(table, paint)
    assert len(read(f"nvie:{file}?spectrum=thermal")) == 12
    assert len(read(f"nvie:{file}?spectrum=all&paired=true")) == 24
    assert skipped(f"nvie:{file}?paired=true") == {"spectrum thermal": 12, "frame without a partner": 1}
    file.write_text(layouts.NVIE + "a.png,fear,uv,,1,q,\n")
    assert error_of(f"nvie:{file}") == f"domain 'uv' is no spectrum ({file}, line 2); write visible or thermal"
    file.write_text(layouts.NVIE + "a.png,fear,ir,,1,q,noon\n")
    assert error_of(f"nvie:{file}") == f"time 'noon' is no number ({file}, line 2)"


def test_nvie_pairs_by_time(tmp_path: Path):
    from fercore.data.formats.nvie import Frame, pairs
    from fercore.data.formats.reading.codes import Labels

    def frame(spectrum: str, time: float | None) -> Frame:
        return Frame(spectrum, "q", time, {"label": "fear"}, "")

    frames = [frame("visible", 0.0), frame("visible", 1.0), frame("thermal", 1.1), frame("thermal", 5.0)]
    assert sorted(pairs(frames, Labels(""))) == [(0, 3), (1, 2)]
    assert sorted(pairs([*frames[:2], frame("thermal", None)], Labels(""))) == [(0, 2)]


def test_non_ascii_paths_and_windows_separators(tmp_path: Path):
    root = tmp_path / "Gesichter \u00e4\u00f6\u00fc \u8868\u60c5"
    paint = layouts.jaffe(root)
    same_pixels(read(f"jaffe:{root}"), paint)
    lists = tmp_path / "listen \u00e9"
    paint = layouts.lacmfer(lists)
    assert len(read(f"lacmfer:{lists}/data?domain=oulu")) == 2
    assert parse_spec("jaffe:C:\\data\\jaffe").path == "C:\\data\\jaffe"


def test_what_systems_leave_behind_is_no_data(tmp_path: Path):
    ck, oulu = layouts.ckplus(tmp_path / "ck"), layouts.oulu(tmp_path / "oulu")
    expected = rows(read(f"ckplus:{tmp_path}/ck")), rows(read(f"oulu:{tmp_path}/oulu"))
    ck.text("Emotion/S005/001/._S005_001_00000010_emotion.txt", "Mac OS X")
    ck.text("__MACOSX/Emotion/S005/._001", "x")
    ck("cohn-kanade-images/S005/001/@eaDir/S005_001_00000010.png")
    oulu("VL/Strong/__MACOSX/Anger/000.jpeg")
    assert (rows(read(f"ckplus:{tmp_path}/ck")), rows(read(f"oulu:{tmp_path}/oulu"))) == expected
    layouts.Painter(tmp_path / "f")("anger/a.png")
    layouts.Painter(tmp_path / "f")("@eaDir/a.png")
    assert read_domain(parse_spec(f"folder:{tmp_path}/f"))[1].rows.unknown == {}


def test_ckplus_names_in_any_case(tmp_path: Path):
    layouts.ckplus(tmp_path)
    expected = rows(read(f"ckplus:{tmp_path}"))
    (tmp_path / "Emotion" / "S005").rename(tmp_path / "Emotion" / "s005")
    file = tmp_path / "Emotion" / "S010" / "002" / "S010_002_00000010_emotion.txt"
    file.rename(file.with_name("S010_002_00000010_EMOTION.TXT"))
    assert rows(read(f"ckplus:{tmp_path}")) == expected


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"synthfer"}))
def test_a_missing_path_is_named(tmp_path: Path, form: str):
    assert error_of(f"{form}:{tmp_path}/none").startswith(f"path not found: {tmp_path}/none")
