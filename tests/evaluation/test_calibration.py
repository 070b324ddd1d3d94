"""Calibration: a temperature that was put in is found again, a prior that was moved is moved back."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import fercore
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.evaluation.calibration import Calibration, calibration_error, calibration_of, fit_temperature


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, 4))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (probs.cumsum(1) > rng.random((n, 1))).argmax(1)
    return logits, probs, truth


@pytest.mark.parametrize("put_in", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_with_is_found(put_in):
    logits, probs, truth = drawn(20_000)
    sharp = torch.tensor(logits / put_in).softmax(-1).numpy()
    found = fit_temperature(sharp, truth)
    assert found == pytest.approx(1 / put_in, rel=0.05)
    fixed = Calibration(temperature=found, ratio=None, n=1, ece_before=None, ece_after=None)
    mended = fixed.apply(torch.from_numpy(sharp)).numpy()
    assert np.abs(mended - probs).max() < 0.02
    assert calibration_error(mended, truth) < 0.02


def test_a_moved_prior_is_bayes_rule():
    _, probs, _ = drawn(5)
    before, after = np.full(4, 0.25), np.array([0.7, 0.1, 0.1, 0.1])
    moved = Calibration(temperature=1.0, ratio=list(after / before), n=0, ece_before=None, ece_after=None)
    likelihood = probs / before
    want = likelihood * after / (likelihood * after).sum(1, keepdims=True)
    assert np.abs(moved.apply(torch.from_numpy(probs)).numpy() - want).max() < 1e-6


def test_a_certain_answer_stays_finite():
    hot = Calibration(temperature=2.0, ratio=None, n=1, ece_before=None, ece_after=None)
    assert hot.apply(torch.tensor([[1.0, 0.0]])).tolist() == [[pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-5)]]


@pytest.mark.slow
def test_a_run_predicts_as_it_was_calibrated(tmp_path, make_context, listener):
    """The temperature is of source samples that no step trains on; scores and files agree with the loaded model."""
    layer = {
        "data": {"source_validation": 0.25},
        "predict": {"calibrate": True, "prior": "uniform"},
        "train": {"steps": 2},
    }
    context = make_context("source_only", layers=(layer,))
    run(context, tmp_path / "run", listener())
    record = json.loads((tmp_path / "run/model/model.json").read_text())["calibration"]
    assert record["n"] == len(context.domains.validation) > 20
    counts = sum(np.bincount(table.labels, minlength=7) for table in context.domains.sources)
    assert np.allclose(record["ratio"], counts.sum() / counts / 7)
    model, test = fercore.load(tmp_path / "run", device="cpu"), context.domains.test
    found = model.predict(list(test.read_many(range(len(test))))).probs
    with (tmp_path / "run/predictions.csv").open(encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file) if row["part"] == "test"}
    assert np.abs(found - [[float(rows[key][name]) for name in model.classes] for key in test.keys]).max() < 1e-6
    result = json.loads((tmp_path / "run/result.json").read_text())["target"]
    assert result["accuracy"] == pytest.approx((found.argmax(1) == test.labels).mean())
    estimates = result["estimated_shares"]
    assert "em" in estimates
    for rows in estimates.values():
        assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
        assert all(0 <= row["low"] <= row["high"] <= 1 for row in rows.values())
    bare = fercore.load(tmp_path / "run", device="cpu")
    bare._evaluator.calibration = None
    raw = bare.predict(list(context.domains.validation.read_many(range(record["n"])))).probs
    assert record["temperature"] == pytest.approx(fit_temperature(raw, context.domains.validation.labels), rel=1e-4)
    assert record["ece_before"] == pytest.approx(calibration_error(raw, context.domains.validation.labels))


def test_an_estimated_prior_moves_the_source_s_to_that_of_the_target(make_context):
    layers = ({"data": {"source_validation": 0.25}, "predict": {"prior": "estimated"}},)
    context = make_context("source_only", layers=layers)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 900)
    shares = np.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])

    def probs(truth):
        return 0.3 * rng.dirichlet(np.ones(7), len(truth)) + 0.7 * np.eye(7)[truth]

    moved = calibration_of(
        context.config, context.domains.classes, np.full(7, 1 / 7), (probs(labels), labels),
        probs(rng.choice(7, 900, p=shares)),
    )  # fmt: skip
    assert moved.temperature == 1
    assert np.abs(np.array(moved.ratio) / 7 - shares).max() < 0.04
    assert context.resolved.config.predict.prior == "estimated"


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ({"calibrate": True}, "needs source samples that are not trained on (predict.calibrate); hold some out"),
        ({"prior": {"anger": 1.0, "joy": 1.0}}, "(predict.prior)"),
        ({"prior": "flat"}, "predict.prior"),
        ({"prior": "estimated"}, "are estimated beside source samples that are not trained on (predict.prior)"),
    ],
)
def test_what_cannot_be_calibrated_is_told_before_training(make_context, predict, message):
    with pytest.raises(UserInputError) as caught:
        make_context("source_only", layers=({"predict": predict},))
    assert message in str(caught.value)
