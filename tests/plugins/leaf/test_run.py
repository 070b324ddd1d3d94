"""Whole runs on tiny synthetic faces: both variants, resume to the bit, the log, and what the gates do."""

from __future__ import annotations

import json

import pytest
import torch

from fercore.engine.run import run

pytestmark = pytest.mark.slow

TINY = {"n_experts": 3}
LABELS_AND_REST = {"data": {"sources": ["synthfer:wild?n=56&seed=8"], "target": "synthfer:wild?n=112&seed=2"}}
OFFICIAL = {"leaf": {**TINY, "variant": "official", "thresholds": {"floor": 0.01}, "shrink": {"rate": 5.0}}}
LEARNING_GATES = {
    "leaf": {**TINY, "variant": "official", "gate": {"k": 2, "balance": 0.1}, "expert": {"shared": False}}
}


@pytest.fixture
def context(make_context):
    def make(layer, **train):
        return make_context("leaf", layers=(LABELS_AND_REST, layer, {"train": {"steps_per_epoch": 2, **train}}))

    return make


@pytest.mark.parametrize("layer", [OFFICIAL, LEARNING_GATES], ids=["official", "noisy top 2"])
def test_resume_is_exact_with_thresholds_noise_and_decay(layer, context, tmp_path, listener, weights_of):
    run(context(layer), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(context(layer), tmp_path / "cut", listener(stop_after=5))
    run(context(layer), tmp_path / "cut", listener(), resume=True)
    left, right = (weights_of(tmp_path / folder)["model"] for folder in ("whole", "cut"))
    assert {"parts.leaf/state.thresholds", "parts.leaf/state.counts"} <= left.keys()
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    if layer is OFFICIAL:
        assert (left["parts.leaf/state.thresholds"] >= 0.01).all()
        assert left["parts.leaf/state.thresholds"].max() > 0.02
    log = [(tmp_path / folder / "metrics.jsonl").read_text() for folder in ("whole", "cut")]
    assert _without_time(log[0]) == _without_time(log[1])


def _without_time(text):
    return [
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"}
        for line in text.splitlines()
        if line.strip()
    ]


def test_the_log_tells_of_candidates(context, tmp_path, listener):
    heard = listener()
    run(context({"leaf": TINY}), tmp_path / "run", heard)
    assert set(heard.reports[0].terms) == {"leaf/supervised", "leaf/consistency"}
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "refresh"]
    assert [line["epoch"] for line in found] == [1, 2]
    assert all(1 <= line["leaf/candidates"] <= 7 for line in found)
    assert all(0 <= line["leaf/all_candidates"] <= 1 for line in found)


def test_a_balance_term_is_there_where_it_has_weight(context, tmp_path, listener):
    heard = listener()
    run(context({"leaf": {**TINY, "gate": {"balance": 0.5}}}, steps=2), tmp_path / "run", heard)
    assert set(heard.reports[0].terms) == {"leaf/supervised", "leaf/consistency", "leaf/balance"}
    assert heard.reports[0].terms["leaf/balance"] > 0


def test_in_the_paper_variant_every_weight_learns_and_with_one_expert_no_gate_does(context, tmp_path, listener):
    def gates(layer, folder):
        made = context(layer, steps=3)
        before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
        run(made, tmp_path / folder, listener())
        # without weight decay, so that only a gradient moves a weight
        return {name: not torch.equal(before[name], p) for name, p in made.model.named_parameters()}

    plain = {"optim": {"name": "adam", "weight_decay": 0.0}}
    moved = gates({"leaf": TINY, **plain}, "two")
    assert all(moved.values()), [name for name, did in moved.items() if not did]
    moved = gates({"leaf": {**TINY, "gate": {"k": 1}}, **plain}, "one")
    assert [name for name, did in moved.items() if not did] == [name for name in moved if "gate.weight" in name]


@pytest.mark.parametrize(("gate", "shared", "learns"), [(1, True, False), (2, True, False), (2, False, True)])
def test_the_official_gates_learn_only_among_two_experts_of_their_own(
    gate, shared, learns, context, tmp_path, listener
):
    leaf = {**TINY, "variant": "official", "gate": {"k": gate}, "expert": {"shared": shared}, "shrink": {"rate": 0}}
    made = context({"leaf": leaf, "optim": {"name": "sgd", "lr": 0.3, "weight_decay": 0.0}}, steps=3)
    run(made, tmp_path / "run", listener())
    names = [name for name in dict(made.model.named_parameters()) if "gate." in name]
    assert len(names) == 4  # weights and noise of two levels, all 0 at first
    moved = max(float(made.model.get_parameter(name).detach().abs().max()) for name in names)
    assert moved > 1e-4 if learns else moved < 1e-6


def test_length_in_epochs(context, tmp_path, listener):
    record = run(context({"leaf": {**TINY, "epochs": 2}}), tmp_path / "run", listener())
    assert record.steps == 4


def test_decay_follows_the_learning_rate(context, tmp_path, listener):
    layer = {"leaf": {**TINY, "shrink": {"rate": 0.5}}, "optim": {"name": "sgd", "lr": 1e-9, "schedule": "constant"}}
    layer["optim"] |= {"weight_decay": 0.0, "warmup_steps": 0}
    made = context(layer, steps=2)
    before = made.model.heads["main"][0].weight.detach().clone()
    run(made, tmp_path / "run", listener())
    torch.testing.assert_close(made.model.heads["main"][0].weight.detach(), before, rtol=1e-6, atol=1e-8)
    layer["optim"]["lr"] = 0.2
    layer["leaf"] |= {"loss_weights": [0, 0, 0]}
    made = context(layer, steps=2)
    run(made, tmp_path / "again", listener())
    torch.testing.assert_close(made.model.heads["main"][0].weight.detach(), before * 0.9**2)
