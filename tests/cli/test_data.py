"""`fercore data`: JSON for programs, tables for people, exit codes, one line for every mistake."""

from __future__ import annotations

import json

import pytest

FACES = "synthfer:wild?n=70&seed=4"


def test_check_prints_json_or_a_table(fercore):
    code, text, _ = fercore("data", "check", FACES, "--json")
    report = json.loads(text)
    assert (code, report["faults"], report["domains"][0]["n"]) == (0, 0, 70)
    code, text, _ = fercore("data", "check", FACES, "synthfer:wild?n=20&seed=4", "--strict")
    assert code == 1
    assert "pictures in two datasets: 20" in text
    assert "happiness" in text


def test_split_and_convert(fercore, tmp_path):
    code, text, _ = fercore("data", "split", FACES, "--out", tmp_path / "s.json", "--parts", "train=1,test=1")
    assert code == 0
    assert "sha256" in text
    code, text, _ = fercore("data", "split", FACES, "--out", tmp_path / "folds", "--folds", "2")
    assert sorted(p.name for p in (tmp_path / "folds").iterdir()) == ["fold0.json", "fold1.json"]
    code, text, _ = fercore("data", "convert", f"{FACES}&split_file={tmp_path}/s.json", "--out", tmp_path / "m")
    assert code == 0
    spec = text.strip().rpartition(" ")[2]
    code, text, _ = fercore("data", "check", spec, "--json")
    assert sorted(json.loads(text)["domains"][0]["counts"]) == ["test", "train"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "wild_mini"], "spec without a format"),
        (["check", "folder:/nowhere"], "path not found: /nowhere"),
        (["check", "synthfer:wild?n=9", "--similar", "2"], "similarity 2.0 is not above 0"),
        (["split", "synthfer:wild?n=9", "--out", "x.json", "--by", "subjects"], "did you mean 'subject'?"),
        (["split", "synthfer:wild?n=9", "--out", "x.json", "--parts", "train"], "no positive number"),
        (["convert", "synthfer:wild?n=9", "--out", "x", "--to", "tfds"], "unknown format 'tfds'"),
        (["check", "synthfer:wild?n=9&split_file=/nowhere"], "split file not found"),
    ],
)
def test_a_mistake_is_one_line(fercore, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = fercore("data", *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_split_and_limit_choose_what_is_looked_at(fercore, tmp_path):
    spec = "synthfer:wild?n=100&divide=class:60/40"
    n = {}
    for options in ("", "&split=train", "&split=test", "&limit=5", "&split=train&limit=7"):
        code, text, _ = fercore("data", "check", spec + options, "--json")
        n[options] = json.loads(text)["domains"][0]["n"]
        assert code == 0
    assert n[""] == n["&split=train"] + n["&split=test"] == 100
    assert (n["&limit=5"], n["&split=train&limit=7"]) == (10, 7)
    code, text, _ = fercore("data", "convert", f"{spec}&split=train&limit=7", "--out", tmp_path / "m")
    assert len((tmp_path / "m" / "manifest.csv").read_text().splitlines()) == 8
    code, _, error = fercore("data", "check", "synthfer:wild?n=9&split=train")
    assert code == 2
    assert "no train part in the dataset" in error
