"""A comparison's rows: what a plugin does to its process reaches no other row, with one job as with several."""

from __future__ import annotations

import shutil

import pytest
import torch

from fercore.console import observer_for
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.experiments.cells import parse_entry
from fercore.experiments.comparison import compare
from fercore.runs.folder import RunFolder

LEAKY = """
import os
import torch
from fercore.builtin.supervised import SourceOnly
from fercore.hooks import hookimpl

class Leaky(SourceOnly):
    "Turns a backend off, and leaves another default type and deterministic mode behind."

    @hookimpl
    def after_run(self, result):
        torch.set_default_dtype(torch.float64)
        torch.backends.mkldnn.enabled = False
        torch.use_deterministic_algorithms(False)
        torch.set_flush_denormal(True)

class Leaver(SourceOnly):
    "Ends its process without a word."

    @hookimpl
    def after_run(self, result):
        os._exit(0)
"""
POINTS = "[fercore.plugins]\nleaky = leaky_plugin:Leaky\nleaver = leaky_plugin:Leaver\n"


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Install a distribution with two plugins for this test and the processes it starts."""
    site = tmp_path / "site"
    info = site / "leaky-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "leaky_plugin.py").write_text(LEAKY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(site)


def compared(texts, tiny, out):
    entries = [parse_entry(text) for text in texts]
    return compare(entries, [0], [tiny], preset="demo", out=out, observe=observer_for(2))


@pytest.mark.slow
def test_a_row_has_the_same_weights_whatever_ran_before_it(outside, tiny, tmp_path, weights_of):
    compared(["bad:leaky", "row:source_only"], tiny, tmp_path / "both")
    compared(["row:source_only"], tiny, tmp_path / "alone")
    left, right = (weights_of(tmp_path / each / "row-s0")["model"] for each in ("both", "alone"))
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.slow
def test_a_row_that_leaves_is_named_and_the_others_are_kept(outside, tiny, tmp_path):
    with pytest.raises(UserInputError, match="^gone seed 0: ended without a word, exit code 0"):
        compared(["row:source_only", "gone:leaver"], tiny, tmp_path / "out")
    assert (tmp_path / "out/row-s0/result.json").is_file()
    assert not (tmp_path / "out/compare.json").exists()


@pytest.mark.slow
def test_a_row_that_cannot_begin_ends_the_comparison_before_any_is_trained(tiny, tmp_path):
    with pytest.raises(UserInputError, match="^wide seed 0: batch larger than a domain: 5000 samples"):
        compared(["row:source_only", "wide:dan data.target_batch=5000"], tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_labels_of_other_classes_are_no_score(tiny, tmp_path):
    from PIL import Image

    rows = ["path,label,split"]
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'' if number % 5 else 'sad'},{'train' if number < 20 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = {**tiny["data"], "target": f"manifest:{tmp_path}/t.csv", "classes": ["anger", "fear"]}
    comparison = compared(["row:source_only"], {**tiny, "data": data}, tmp_path / "out")
    assert not comparison.scored
    assert comparison.rows[0].accuracy is None
    assert comparison.table()[1] == [["row", "–", "–", "–", "–", "–"]]


@pytest.mark.slow
def test_rows_of_data_that_changed_between_them_are_not_compared(tiny, tmp_path):
    from PIL import Image

    def draw(shift):
        for label in ("anger", "fear"):
            (tmp_path / "d" / label).mkdir(parents=True, exist_ok=True)
            for number in range(30):
                Image.new("RGB", (8, 8), (number, shift, len(label))).save(tmp_path / "d" / label / f"{number}.png")

    spec = f"folder:{tmp_path}/d"
    settings = {**tiny, "data": {**tiny["data"], "sources": [spec], "target": spec}}
    draw(0)
    compared(["old:source_only"], settings, tmp_path / "out")
    draw(1)
    with pytest.raises(UserInputError, match="^new seed 0 had other data than old seed 0: it changed between the two"):
        compared(["old:source_only", "new:source_only"], settings, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/old-s0")
    summary = compared(["old:source_only", "new:source_only"], settings, tmp_path / "out")
    assert summary.rows[1].accuracy.difference.by_seed == [0.0]


@pytest.mark.slow
def test_rows_that_begin_together_take_one_format_and_a_comparison_goes_on_with_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    settings = {**tiny, "train": {**tiny["train"], "memory_format": "auto"}}
    rows = [parse_entry(text) for text in ("a:source_only", "b:source_only", "c:source_only")]

    def summary(rows):
        return compare(rows, [0], [settings], preset="demo", out=tmp_path / "out", observe=silent, jobs=3)

    first = summary(rows)
    layers = [RunFolder(tmp_path / f"out/{name}-s0").config_layers() for name in "abc"]
    formats = {layer["train"]["memory_format"] for layer in layers}
    assert len(formats) == 1
    assert "auto" not in formats
    shutil.rmtree(tmp_path / "out/c-s0")
    shutil.rmtree(tmp_path / "cache")
    assert summary(rows[:2]).rows == first.rows[:2]


@pytest.mark.slow
def test_a_silent_observer_will_do(tiny, tmp_path):
    entry = parse_entry("source_only")
    summary = compare([entry], [0], [tiny], preset="demo", out=tmp_path / "out", observe=silent)
    assert len(summary.rows) == 1


def silent(label):
    return Observer()
