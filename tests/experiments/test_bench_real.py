"""bench.real: the study of all pairs, its tables, its figures, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest

from bench import real
from fercore.errors import UserInputError
from fercore.experiments.study_file import check_study

DATA = {"a": "synthfer:studio?n=70&seed=1", "b": "synthfer:wild?n=80&seed=2", "c": "folder:/data/c"}


def test_every_source_meets_every_other_dataset():
    keys = real.study_of(DATA, [], [], real.METHODS, [0, 1], 9, {"train": {"steps": 3}})
    file = check_study(keys, "", "")
    assert [pair.name for pair in file.pairs] == ["a to b", "a to c", "b to a", "b to c", "c to a", "c to b"]
    assert [row.start for row in file.methods] == ["source"] * len(real.METHODS) + [None]
    assert file.settings["train"] == {"checkpoint_every": 100, "steps": 3}
    few = real.study_of(DATA, ["a", "b"], ["b"], ["source_only"], [0], 9, {})
    assert [pair["name"] for pair in few["pairs"]] == ["a to b"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a=folder:/x", "folder:/y"], "cannot read 'folder:/y'"),
        (["a=folder:/x", "b=/y"], "cannot read 'b=/y'"),
        (["a=folder:/x", "a=folder:/y"], "two datasets are called 'a'"),
        (["a=folder:/x"], "a pair takes two datasets"),
    ],
)
def test_data_that_cannot_be_read_are_one_line(texts, message):
    with pytest.raises(UserInputError, match=message):
        real.read_data(texts)


@pytest.mark.parametrize(("sources", "targets", "message"), [(["x"], [], "no dataset 'x'"), (["a"], ["a"], "no pair")])
def test_names_that_make_no_pair_are_one_line(sources, targets, message):
    with pytest.raises(UserInputError, match=message):
        real.study_of(DATA, sources, targets, ["source_only"], [0], 9, {})


@pytest.mark.slow
def test_one_command_writes_both_tables_and_the_figures(tmp_path, monkeypatch, capsys):
    settings = [
        "data.size=32", "data.source_batch=14", "data.target_batch=14", "train.threads=1", "model.weights=none",
        "model.backbone=resnet18", "model.backbone_args.resnet18.channels=[8,8,8,8]",
    ]  # fmt: skip
    data = ["--data", f"a={DATA['a']}", "--data", f"b={DATA['b']}", "--sources", "a"]
    out, file = tmp_path / "out", tmp_path / "real.json"
    words = ["real", str(out), *data, "--methods", "source_only", "mcc", "--seeds", "0", "1", "--pretrain", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--steps", "2", "--set", *settings])
    real.main()
    assert "mcc" in capsys.readouterr().out
    for score in real.SCORES:
        table = (out / f"{score}.md").read_text()
        assert table.count("\n| ") >= 4
        assert "95 % Student interval over seeds 0, 1" in table
    monkeypatch.setattr(sys, "argv", ["real", str(out), "--table", str(file)])
    real.main()
    record = json.loads(file.read_text())
    assert record["steps"] == {"source_only": 2, "mcc": 2, "source": 2}
    rows = record["cells"]["balanced_accuracy, differences to source"]
    assert {(row["method"], row["pair"]) for row in rows} == {(m, "a to b") for m in ("source_only", "mcc", "source")}
    assert next(row for row in rows if row["method"] == "mcc")["difference"] is not None
