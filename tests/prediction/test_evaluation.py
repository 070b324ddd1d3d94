"""Models scored on a dataset: the run's own scores come out again, and what a reader must know is said."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

import fercore
from fercore.cli import main
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError
from fercore.prediction.evaluation import _seen


@pytest.fixture(scope="module")
def scored(scored_images, tmp_path_factory) -> str:
    """Return a dataset of the images that the run was scored on, with two files that cannot be used."""
    home = tmp_path_factory.mktemp("scored")
    for k, path in enumerate(scored_images):
        (home / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, home / path.parent.name / f"{k}.png")
    (home / "fear/none.png").write_text("no image", encoding="utf-8")
    (home / "contempt").mkdir()
    shutil.copy(path, home / "contempt/a.png")
    return f"folder:{home}"


def test_scores_are_those_of_the_run(trained, scored):
    target = fercore.open_run(trained / "run").result.target
    scores = fercore.evaluate(trained / "run", scored, device="cpu", replicates=200).to_json()
    (model,) = scores["models"].values()
    for score in ("accuracy", "balanced_accuracy", "macro_f1"):
        low, high = model["scores"][score]["interval"]
        assert model["scores"][score]["value"] == pytest.approx(getattr(target, score))
        assert low <= model["scores"][score]["value"] <= high
    assert model["confusion"] == target.confusion
    assert scores["n"] == target.n
    assert scores["left_out"] == {"class contempt, which not every model knows": 1, "not an image": 1}
    assert (scores["unit"], scores["units"]) == ("image", target.n)


@pytest.mark.slow
def test_models_stand_side_by_side_and_people_are_drawn_whole(trained, tmp_path, capsys, monkeypatch):
    shutil.copytree(trained / "run/model", tmp_path / "other")
    spec = "synthfer:wild?n=84&seed=5"
    words = ["evaluate", str(trained / "run"), str(tmp_path / "other"), spec, "--out", str(tmp_path / "e.json")]
    monkeypatch.setattr("sys.argv", ["fercore", *words, "--device", "cpu", "--replicates", "100"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    scores = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))
    table, _ = read_domain(parse_spec(spec))
    assert (scores["unit"], scores["units"]) == ("subject", len(set(table.subjects)))
    assert list(scores["differences"]) == [str(tmp_path / "other")]
    assert scores["differences"][str(tmp_path / "other")]["accuracy"] == {"value": 0.0, "interval": [0.0, 0.0]}
    out = capsys.readouterr().out
    assert "differences to" in out
    assert "happiness" in out


def test_what_the_model_has_met_before_is_said(trained):
    (trained / "gone").rename(trained / "data")
    try:
        evaluation = fercore.evaluate(trained / "run", f"folder:{trained}/data/studio", device="cpu", replicates=10)
        assert "trained on labels of this dataset" in evaluation.notes[0]
        evaluation = fercore.evaluate(trained / "run", f"folder:{trained}/data/wild", device="cpu", replicates=10)
        assert "without their labels" in evaluation.notes[0]
    finally:
        (trained / "data").rename(trained / "gone")


def test_a_dataset_without_labels_that_the_models_know_is_refused_in_one_line(trained, tmp_path):
    shutil.copytree(next((trained / "gone/wild").iterdir()), tmp_path / "contempt")
    for spec, text in ((f"folder:{tmp_path}", "no image with a label"), (str(tmp_path), "spec without a format")):
        with pytest.raises(UserInputError, match=text):
            fercore.evaluate(trained / "run", spec, device="cpu")


def test_the_same_model_twice_is_refused(trained):
    with pytest.raises(UserInputError, match="the same model twice .*name each of them once"):
        fercore.evaluate([trained / "run", trained / "." / "run"], "synthfer:wild?n=14", device="cpu")


def test_generated_faces_of_another_seed_are_other_images():
    source, target = map(parse_spec, ("synthfer:studio?n=84", "synthfer:wild?n=112&seed=2"))
    met = SimpleNamespace(sources=[SimpleNamespace(spec=source)], target=SimpleNamespace(spec=target))
    model = SimpleNamespace(record=SimpleNamespace(provenance=met))
    specs = ("synthfer:wild?n=28&seed=2", "synthfer:wild?n=28&seed=7", "synthfer:studio?n=28", "synthfer:studio?seed=0")
    seen = [" ".join(_seen("m", model, parse_spec(spec))) for spec in specs]
    assert ["without their labels" in line for line in seen] == [True, False, False, False]
    assert ["trained on labels" in line for line in seen] == [False, False, True, True]
