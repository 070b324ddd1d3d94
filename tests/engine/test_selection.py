"""Scores without target labels in a run: logged, blind to labels, and choosing the checkpoint where a rule says so."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fercore
from fercore.engine.run import run
from fercore.engine.selection import final_scores, gather
from fercore.errors import UserInputError
from fercore.evaluation.selection import VALIDATORS, score_pool
from fercore.evaluation.selection.structure import class_ami
from fercore.records.outputs import Outputs
from fercore.records.step import Progress
from fercore.runs.predictions import read_scores

EVERY = {"train": {"eval_every": 2}}
HELD = {"data": {"source_validation": 0.25}}
CLOCK = Progress("main", "", 0, 0, 6)


def lines_of(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("kind",)} for line in lines if line["kind"] == kind]


def with_other_labels(context):
    """The same run, but the target's labels, which the evaluator alone keeps, are drawn anew."""
    rng, domains = np.random.default_rng(0), context.domains
    test = domains.test.with_labels(rng.integers(0, 7, len(domains.test)))
    return replace(context, domains=replace(domains, test=test, truth=rng.permutation(domains.truth)))


def test_every_evaluation_logs_scores_and_the_labels_of_the_target_change_none(make_context, tmp_path, listener):
    layers = (EVERY, HELD)
    run(make_context("source_only", layers=layers), tmp_path / "a", listener())
    run(with_other_labels(make_context("source_only", layers=layers)), tmp_path / "b", listener())
    found = lines_of(tmp_path / "a", "selection")
    assert [line["done"] for line in found] == [2, 4, 6]
    assert {"information_maximisation", "class_ami", "source_balanced_accuracy", "atc"} <= found[0].keys()
    assert found == lines_of(tmp_path / "b", "selection")
    assert lines_of(tmp_path / "a", "evaluation") != lines_of(tmp_path / "b", "evaluation")
    kept = [read_scores(tmp_path / name) for name in "ab"]
    assert kept[0] == kept[1]
    assert kept[0].part == "adaptation"
    # The last evaluation is of the model that is reported.
    assert kept[0].scores.keys() == {"information_maximisation", "class_ami"}
    assert kept[0].scores.items() <= found[-1].items()


def test_scores_of_a_finished_run_are_of_as_many_images_as_cost_little(monkeypatch):
    rng = np.random.default_rng(0)
    outputs = Outputs(rng.dirichlet(np.ones(3), 60), {"main": rng.normal(size=(60, 4))}, {}, np.full(60, -1))
    assert final_scores(outputs)["class_ami"] == class_ami(outputs.probs, outputs.features["main"])
    monkeypatch.setattr("fercore.engine.selection.MOST", 30)
    again = [final_scores(outputs) for _ in range(2)]
    assert again[0] == again[1] != final_scores(replace(outputs, probs=outputs.probs[::-1]))
    few = Outputs(outputs.probs[:19], {"main": outputs.features["main"][:19]}, {}, outputs.labels[:19])
    assert final_scores(few) == {}


@pytest.mark.slow
def test_scores_draw_nothing_from_the_run(make_context, tmp_path, listener, weights_of):
    plain = run(make_context("source_only"), tmp_path / "a", listener())
    watched = run(make_context("source_only", layers=(EVERY,)), tmp_path / "b", listener())
    assert plain.target == watched.target
    assert plain.selection.step is None
    left, right = (weights_of(tmp_path / name)["model"] for name in "ab")
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def held_out(make_context):
    return make_context("source_only", layers=(EVERY, HELD, {"data": {"au": "synthfer"}}))


def test_every_built_in_score_can_be_worked_out_in_a_run(held_out):
    found = gather(held_out, CLOCK, tuple(VALIDATORS.builtin))
    scores = {name: score_pool(name, [found])[0] for name in VALIDATORS.builtin}
    undefined = {name for name, score in scores.items() if not np.isfinite(score)}
    assert undefined == {"agreement", "agreement_on_the_line"}  # of one candidate
    assert len(found.source_labels) == len(held_out.domains.validation)


def test_source_is_held_out_by_person_and_is_not_trained_on(held_out, make_context):
    whole = make_context("source_only").domains
    validation, sources = held_out.domains.validation, held_out.domains.sources
    assert len(validation) + sum(map(len, sources)) == sum(map(len, whole.sources))
    assert len(validation) == pytest.approx(0.25 * sum(map(len, whole.sources)), rel=0.3)
    trained = {(table.spec, subject) for table in sources for subject in table.subjects}
    specs = [table.spec for table in sources]
    assert not trained & {(specs[d], s) for d, s in zip(validation.domain, validation.subjects, strict=True)}
    assert held_out.domains.fingerprint().keys() - whole.fingerprint().keys() >= {"validation"}


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["worst", "ensemble"])
def test_the_checkpoint_that_a_rule_chooses_is_reported(rule, make_context, tmp_path, listener, monkeypatch):
    """`worst` is a score that prefers the first checkpoint; its network is that of a run of as many steps."""
    calls = itertools.count()

    def worst(target_probs):
        return -float(next(calls))

    monkeypatch.setitem(VALIDATORS.builtin, "worst", worst)
    layers = (EVERY, {"select": {"rule": rule, "scores": ["entropy"]}, "optim": {"schedule": "constant"}})
    chosen = run(make_context("source_only", layers=layers), tmp_path / "run", listener())
    told = chosen.selection
    assert [each.step for each in told.candidates] == [2, 4, 6]
    assert told.step == max(told.candidates, key=lambda each: each.score).step
    assert not (tmp_path / "run/candidates").exists()
    at_the_time = next(s for s in lines_of(tmp_path / "run", "evaluation") if s["done"] == told.step)
    assert chosen.target.accuracy == at_the_time["accuracy"]
    if rule == "worst":
        assert told.step == 2
        short = ({"train": {"steps": 2}}, {"optim": {"schedule": "constant"}})
        two = run(make_context("source_only", layers=short), tmp_path / "two", listener())
        assert two.target == chosen.target
        pixels = np.full((2, 32, 32, 3), 99, dtype=np.uint8)
        left, right = (fercore.load(tmp_path / name).predict(pixels).probs for name in ("run", "two"))
        np.testing.assert_array_equal(left, right)


@pytest.mark.slow
def test_a_run_that_goes_on_chooses_among_the_same(make_context, tmp_path, listener):
    layers = (EVERY, {"select": {"rule": "information_maximisation"}, "train": {"ema": 0.5}})
    whole = run(make_context("source_only", layers=layers), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only", layers=layers), tmp_path / "cut", listener(stop_after=5))
    assert sorted(p.name for p in (tmp_path / "cut/candidates").iterdir()) == ["step_00000002", "step_00000004"]
    again = run(make_context("source_only", layers=layers), tmp_path / "cut", listener(), resume=True)
    assert again.selection == whole.selection
    assert again.target == whole.target


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"select": {"rule": "entropie"}}, "unknown score 'entropie'.*entropy"),
        ({"select": {"rule": "entropy"}}, "nothing to choose from.*train.eval_every"),
        ({"select": {"rule": "atc"}, "train": {"eval_every": 2}}, "not trained on.*data.source_validation"),
        ({"select": {"rule": "au_agreement"}, "train": {"eval_every": 2}}, "needs action units"),
        ({"select": {"scores": ["sdn"]}}, "unknown score 'sdn'.*snd"),
    ],
)
def test_a_rule_that_cannot_be_worked_out_is_refused_before_the_run(layer, message, make_context):
    with pytest.raises(UserInputError, match=message):
        make_context("source_only", layers=(layer,))
