"""no_adaptation: what it says and writes is the trained model's, with a source beside it or without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fercore
from fercore.runs.predictions import read_predictions

DATA = {"target": "synthfer:wild?n=80&seed=3", "preset": "demo"}
TINY = {"train.steps": 3, "train.threads": 1, "report.tensorboard": False, "data.size": 32, "data.source_batch": 16,
        "data.target_batch": 16}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "run"
    return fercore.train("source_only", **DATA, source="synthfer:studio?n=140", set=TINY, out=out)


@pytest.mark.parametrize("source", [(), "synthfer:studio?n=140"])
def test_weights_and_answers_stay_as_they_are(trained, source, tmp_path):
    run = fercore.train("no_adaptation", **DATA, source=source, set=TINY, init=trained.path, out=tmp_path / "run")
    before, after = (load_file(each.path / "model" / "model.safetensors") for each in (trained, run))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # In another order of batches: equal but for rounding.
    answers = [read_predictions(each.path) for each in (trained, run)]
    assert answers[0].images == answers[1].images
    np.testing.assert_allclose(answers[0].probs, answers[1].probs, atol=1e-5)
    assert run.result.initial.accuracy == run.result.target.accuracy == trained.result.target.accuracy


def test_without_a_model_there_is_nothing_to_score(tmp_path):
    with pytest.raises(fercore.UserInputError, match="adapts a trained model, and none is given"):
        fercore.train("no_adaptation", **DATA, set=TINY, out=tmp_path / "run")
