"""A run set beside a finished one: how often both predict the same class, without a label; wrong ones are refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from fercore.config import RunConfig
from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.hooks.guard import shown

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory, make_context) -> Path:
    home = tmp_path_factory.mktemp("reference") / "run"
    run(make_context("source_only", layers=({"train": {"steps": 2}},)), home, Observer())
    return home


def said(run_folder: Path) -> dict[str, str]:
    with (run_folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {row["image"]: row["prediction"] for row in csv.DictReader(file) if row["part"] == "test"}


def test_a_result_says_how_often_it_agrees_with_the_reference(reference, tmp_path, make_context):
    layers = ({"train": {"steps": 2}, "optim": {"lr": 0.05}, "report": {"reference": str(reference)}},)
    target = run(make_context("source_only", layers=layers), tmp_path / "run", Observer()).to_json()["target"]
    beside, ours, theirs = target["reference"], said(tmp_path / "run"), said(reference)
    assert (beside["plugins"], beside["seed"], beside["n"]) == (["source_only"], 3, len(ours))
    assert beside["agreement"] == pytest.approx(sum(ours[name] == theirs[name] for name in ours) / len(ours))
    for row, other in enumerate(target["classes"]):
        for column, own in enumerate(target["classes"]):
            both = sum((theirs[name], ours[name]) == (other, own) for name in ours)
            assert beside["counts"][row][column] == both
    assert json.loads((tmp_path / "run/result.json").read_text())["target"]["reference"] == beside


def changed(name: str, old: str, new: str):
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "report.reference: no finished run there .* name a folder"),
        (lambda folder: (folder / "result.json").unlink(), "no finished run there .* finish it: fercore run --resume"),
        (changed("predictions.csv", "disgust", "contempt"), "'contempt' is a class of one run alone"),
        (changed("predictions.csv", "wild", "elsewhere"), "that run did not predict .* of the .* test images, such as"),
        (changed("predictions.csv", "image,part", "part,image"), "predictions.csv is damaged"),
    ],
)
def test_a_reference_of_no_use_is_refused_before_training(reference, tmp_path, make_context, damage, message):
    copy = Path(shutil.copytree(reference, tmp_path / "copy"))
    damage(copy)
    context = make_context("source_only", layers=({"report": {"reference": str(copy)}},))
    with pytest.raises(UserInputError, match=message):
        run(context, tmp_path / "run", Observer())
    assert not (tmp_path / "run").exists()


def test_plugins_do_not_see_where_it_is():
    config = RunConfig.model_validate({"report": {"reference": "runs/source"}})
    assert config.report.reference == str(Path.cwd() / "runs/source")
    assert shown(config).report.reference is None
