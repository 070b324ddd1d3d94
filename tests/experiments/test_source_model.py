"""A source model trained once: what it is named by, who shares it, and what kills and races leave of it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import fercore
from fercore.decisions.judging import judge_rows
from fercore.engine.observer import Observer
from fercore.experiments import source_model
from fercore.experiments.cells import Cell, Entry, resolve
from fercore.experiments.source_model import FOLDER, kept_at, source_cell, source_layers, train_source
from fercore.experiments.study import Study
from fercore.experiments.study_file import check_study
from fercore.runs import checkpoint
from fercore.runs.folder import RunFolder

DATA = {"source": "synthfer:studio?n=70&seed=1", "target": "synthfer:wild?n=80&seed=2", "preset": "demo"}
SMALL = {
    "data.size": 32, "data.source_batch": 14, "data.target_batch": 14, "train.threads": 1,
    "model.backbone_args.resnet18.channels": [8, 8, 8, 8], "report.tensorboard": False, "device": "cpu",
}  # fmt: skip
LAYER = {
    "data": {
        "sources": [DATA["source"]], "target": DATA["target"], "size": 32, "source_batch": 14, "target_batch": 14,
    },
    "model": {"backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}},
    "train": {"threads": 1}, "report": {"tensorboard": False}, "device": "cpu",
}  # fmt: skip


def silent(label):
    return Observer()


def cell_of(out, *layers, steps=3):
    return source_cell([LAYER, {"seed": 0}, *layers], steps, "demo", out, "source")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "adapted"
    settings = {**SMALL, "train.steps": 2, "optim.lr": 1e-9}
    return fercore.train("mcc", **DATA, set={**settings, "mcc.bottleneck": 0}, seed=0, out=out, pretrain_source=3)


@pytest.mark.slow
def test_a_run_starts_from_the_source_model_head_included(started):
    (kept,) = (path for path in (started.path.parent / FOLDER).iterdir() if path.is_dir())
    source = RunFolder(kept).result()
    assert (source.plugins, source.steps) == (["source_only"], 3)
    assert started.config.model.init == str(kept)
    # At a rate of nothing it predicts what the source model does.
    assert started.result.target.confusion == source.target.confusion
    assert not (kept / "checkpoints").exists()


@pytest.mark.slow
def test_weights_that_are_named_are_what_the_source_model_begins_with(started, tmp_path):
    (before,) = (path for path in (started.path.parent / FOLDER).iterdir() if path.is_dir())
    weights = str(before / "model/model.safetensors")
    settings = {**SMALL, "model.weights": weights, "train.steps": 2, "optim.lr": 1e-9, "mcc.bottleneck": 0}
    run = fercore.train("mcc", **DATA, set=settings, seed=0, out=tmp_path / "run", pretrain_source=2)
    (kept,) = (path for path in (tmp_path / FOLDER).iterdir() if path.is_dir())
    assert RunFolder(kept).config_layers()["model"]["weights"] == weights
    assert run.config.model.weights == str(kept / "model/model.safetensors")
    assert run.result.target.confusion == RunFolder(kept).result().target.confusion
    # The same of a row of a study or comparison, whose start is another row.
    layers = [LAYER, {"model": {"weights": weights}}, {"mcc": {"bottleneck": 0}}]
    cell = Cell(Entry("mcc", ("mcc",), {}), tuple(layers), "demo", tmp_path / "cell", "mcc", start=kept)
    assert resolve(cell).config.model.weights == str(kept / "model/model.safetensors")


@pytest.mark.slow
def test_another_method_trains_no_second_one_and_one_without_source_takes_the_target_alone(started):
    before = {path: path.stat().st_mtime_ns for path in (started.path.parent / FOLDER).rglob("*") if path.is_file()}
    out = started.path.with_name("shot")
    settings = {**SMALL, "train.steps": 2, "shot.diversity": 0}
    run = fercore.train("shot", **DATA, set=settings, seed=0, out=out, pretrain_source=3)
    after = {path: path.stat().st_mtime_ns for path in (started.path.parent / FOLDER).rglob("*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.suffix != ".lock"} == {
        p: t for p, t in before.items() if p.suffix != ".lock"
    }
    assert run.config.data.sources == ()
    source = RunFolder(Path(run.config.model.init)).result()
    assert run.result.initial.confusion == source.target.confusion


@pytest.mark.slow
def test_rows_of_a_comparison_share_one_model_a_seed_which_is_the_last_row(started):
    out = started.path.with_name("rows")
    both = fercore.compare(
        ["source_only", "row:mcc mcc.bottleneck=0"], **DATA, set={**SMALL, "train.steps": 2}, seeds=[0],
        out=out, pretrain_source=3,
    )  # fmt: skip
    assert [row.label for row in both.rows] == ["source_only", "row", "source"]
    inits = {str(fercore.open_run(out / f"{name}-s0").config.model.init) for name in ("source_only", "row")}
    assert inits == {str(out / "source-s0")}
    (kept,) = (path for path in (started.path.parent / FOLDER).iterdir() if path.is_dir())
    assert (out / "source-s0/predictions.csv").read_bytes() == (kept / "predictions.csv").read_bytes()
    again = fercore.compare(
        ["source_only", "row:mcc mcc.bottleneck=0"], **DATA, set={**SMALL, "train.steps": 2}, seeds=[0],
        out=out, pretrain_source=3,
    )  # fmt: skip
    assert again == both
    judged = judge_rows(out, [row.label for row in both.rows], both.seeds)
    assert any("source" in line for line in judged)


@pytest.mark.slow
def test_a_study_has_the_row_and_goes_on(started):
    file = {
        "preset": "demo", "seeds": [0], "pretrain_source": 3, "methods": ["source_only", "shot:shot shot.diversity=0"],
        "settings": {**{k: v for k, v in LAYER.items() if k != "data"}, "train": {"threads": 1, "steps": 2},
                     "data": {k: v for k, v in LAYER["data"].items() if k not in ("sources", "target")}},
        "pairs": [{"name": "one", "source": [DATA["source"]], "target": DATA["target"]}],
    }  # fmt: skip
    out = started.path.with_name("study")
    assert Study(file, out).run().complete
    study = Study.read(out)
    assert study.status().complete
    found = study.results()
    assert found["shot", "one", 0].initial.confusion == found["source", "one", 0].target.confusion


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        ({"optim": {"lr": 0.5}}, True),
        ({"train": {"steps": 7, "ema": 0.9}}, True),
        ({"data": {"workers": 2, "cache_mb": 5}}, True),
        ({"data": {"class_balanced": True}}, False),
        ({"data": {"size": 48}}, False),
        ({"model": {"dropout": 0.1}}, False),
        ({"seed": 1}, False),
        ({"train": {"precision": "bf16-mixed"}}, False),
    ],
)
def test_its_name_follows_from_what_decides_its_weights(layer, same, tmp_path):
    one, other = (kept_at(cell_of(tmp_path / "out", *more), tmp_path / "out") for more in ([], [layer]))
    assert (one == other) is same


def test_weights_of_other_bytes_make_another_name(tmp_path):
    weights = tmp_path / "w.pth"
    names = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        names.append(kept_at(cell_of(tmp_path / "out", {"model": {"weights": str(weights)}}), tmp_path / "out").name)
    assert names[0] != names[1]


def test_settings_of_methods_and_of_their_training_are_left_out():
    layers = [{"mcc": {"weight": 2}, "optim": {"lr": 1}, "train": {"ema": 0.5, "threads": 2}, "data": {"au": "x"}}]
    assert source_layers(layers, 9) == [{"train": {"threads": 2}}, {"train": {"steps": 9}}]


@pytest.mark.slow
def test_a_killed_process_leaves_it_to_the_next_which_goes_on(tmp_path):
    keep = tmp_path / FOLDER / "m"
    cell = cell_of(tmp_path / "out", {"data": {"workers": 0}}, steps=400)
    first = multiprocessing.get_context("spawn").Process(target=train_source, args=(cell, keep, silent))
    first.start()
    until = time.monotonic() + 120
    while checkpoint.newest(keep / "checkpoints") is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    assert not RunFolder(keep).finished
    told = []
    result = train_source(cell, keep, lambda label: Told(told))
    assert result.steps == 400
    assert any("resumed after" in line for line in told)


class Told(Observer):
    def __init__(self, lines):
        self.lines = lines

    def message(self, text):
        self.lines.append(text)


@pytest.mark.slow
def test_two_at_once_train_one(tmp_path):
    keep = tmp_path / FOLDER / "m"
    cell = cell_of(tmp_path / "out")
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=train_source, args=(cell, keep, silent)) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert [each.exitcode for each in both] == [0, 0]
    begins = [json.loads(line) for line in (keep / "metrics.jsonl").read_text().splitlines()]
    assert [line["done"] for line in begins if line["kind"] == "step"] == [1, 3]


@pytest.mark.slow
def test_data_that_changed_since_are_told(tree, tmp_path):
    root = tree("d", {"anger": 20, "fear": 20})
    layer = {"data": {"sources": [f"folder:{root}"], "target": f"folder:{root}", "source_batch": 4, "target_batch": 4}}
    keep, cell = tmp_path / FOLDER / "m", cell_of(tmp_path / "out", layer)
    train_source(cell, keep, silent)
    (root / "anger/0.png").unlink()
    with pytest.raises(fercore.UserInputError, match="sources changed since this source model was trained.*delete"):
        train_source(cell, keep, silent)
    shutil.rmtree(keep)
    assert train_source(cell, keep, silent).steps == 3


@pytest.mark.parametrize(
    ("more", "steps", "message"),
    [
        ({"init": "runs/x"}, 5, "names a model to start from"),
        ({"source": ()}, 5, "no source to train on"),
        ({}, 0, "0 steps"),
    ],
)
def test_what_cannot_be_pretrained_is_one_line_before_anything_is_written(more, steps, message, tmp_path, monkeypatch):
    monkeypatch.setattr("fercore.engine.initial.with_initial", list)
    with pytest.raises(fercore.UserInputError, match=message):
        fercore.train("shot", **{**DATA, **more}, set=SMALL, out=tmp_path / "run", pretrain_source=steps)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_trains_none_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(source_model, "train_source", None)
    lines = []
    fercore.describe(
        "mcc", **DATA, set=SMALL, out=tmp_path / "run", pretrain_source=5, observe=lambda label: Told(lines)
    )
    assert any("not trained yet; a run would train it first, 5 steps" in line for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_study_that_is_written_down_is_read_as_it_was():
    pair = {"name": "p", "source": ["synthfer:studio"], "target": "synthfer:web"}
    file = check_study(
        {"methods": ["dan", {"method": "mcc", "from": "dan"}], "pairs": [pair], "pretrain_source": 5}, "", ""
    )
    assert [(row.name, row.start) for row in file.methods] == [("dan", "source"), ("mcc", "dan"), ("source", None)]
    assert file.reference_label == "dan"
    written = file.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert check_study(written, "", "") == file
