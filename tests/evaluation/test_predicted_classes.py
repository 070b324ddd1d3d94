"""Classes that the target does not have are not predicted: by settings or SPEC, in scores, files and models."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import fercore
from fercore.config import RunConfig
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.evaluation.calibration import Calibration, limited, refuse_impossible

ALL = ("anger", "disgust", "fear", "happiness")


def config_of(names=None, present=None, **predict):
    target = "synthfer:wild" + (f"?present={present}" if present else "")
    return RunConfig.model_validate({"data": {"target": target}, "predict": {"classes": names, **predict}})


def test_what_is_left_has_the_shares_it_had_among_itself():
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.0, 1.0, 0.0, 0.0]])
    left = limited(config_of(["anger", "fear"]), ALL).apply(probs)
    assert torch.allclose(left[0], torch.tensor([0.5 / 0.65, 0, 0.15 / 0.65, 0]), atol=1e-6)
    assert left[:, [1, 3]].eq(0).all()
    assert torch.allclose(left.sum(1), torch.ones(2))
    both = Calibration(
        temperature=2.0, ratio=[1, 2, 4, 1], n=0, ece_before=None, ece_after=None, predicted=[True, False, True, False]
    )
    weights = np.sqrt([0.5, 0.15]) * [1, 4]
    assert both.apply(probs)[0, [0, 2]].tolist() == pytest.approx(weights / weights.sum(), abs=1e-6)
    assert both.apply(probs, of_target=False)[0, 1] > 0


def test_names_are_read_as_labels_are_and_the_setting_goes_before_the_spec():
    assert limited(config_of(present="angry,Fear"), ALL).predicted == [True, False, True, False]
    assert limited(config_of(["joy", "anger"], present="angry,Fear"), ALL).predicted == [True, False, False, True]
    assert limited(config_of(), ALL) is None
    assert limited(config_of([*ALL, "contempt"]), ALL) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (config_of(["angre", "fear"]), "angre.*did you mean"),
        (config_of(present="anger,fera"), "fera.*present"),
        (config_of(["anger", "contempt"]), "fewer than two classes would be predicted: the run has anger"),
    ],
)
def test_what_cannot_be_is_one_line(config, message):
    with pytest.raises(UserInputError, match=message):
        refuse_impossible(config, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"calibrate": True, "prior": "uniform"}])
def test_a_run_and_its_model_predict_no_other_class(more, tmp_path, make_context, listener):
    kept = ["anger", "happiness", "surprise"]
    layer = {
        "predict": {"classes": kept, **more},
        "train": {"steps": 2, "eval_every": 1},
        "data": {"source_validation": 0.2},
    }
    context = make_context("source_only", layers=(layer,))
    result = run(context, tmp_path / "run", listener())
    absent = [name for name in context.domains.classes if name not in kept]
    assert result.target.predictable == kept
    assert json.loads((tmp_path / "run/result.json").read_text())["target"]["predictable"] == kept
    columns = np.array(result.target.confusion).sum(0)
    assert columns[[context.domains.classes.index(name) for name in absent]].tolist() == [0] * len(absent)
    with (tmp_path / "run/predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["prediction"] for row in rows} <= set(kept)
    assert all(float(row[name]) == 0 for row in rows for name in absent)
    model, test = fercore.load(tmp_path / "run", device="cpu"), context.domains.test
    probs = model.predict(list(test.read_many(range(len(test))))).probs
    assert (probs.argmax(1) == test.labels).mean() == pytest.approx(result.target.accuracy)
    images = torch.zeros(2, 3, 32, 32)
    assert model.probabilities(images)[:, [model.classes.index(name) for name in absent]].eq(0).all()
    # Of held-out source every class may be predicted: shares and temperature are worked out from those.
    held_out = context.evaluator.predict(context.reported, context.domains.validation, *_clock(), "source")
    assert (held_out.probs[:, [context.domains.classes.index(name) for name in absent]] > 0).all()


def _clock():
    from fercore.records.step import Progress

    return (Progress("train", "", 0, 2, 2),)
