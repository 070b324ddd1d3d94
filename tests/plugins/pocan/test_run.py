"""Whole runs on tiny synthetic faces: stages, players, resume inside stage 2, direct transfer, both variants."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fercore.engine.run import run

pytestmark = pytest.mark.slow

EVERY_STEP = {"train": {"checkpoint_every": 1, "steps_per_epoch": 3}}
PLAYERS = {"encoder": "backbone.", "prototypes": "heads."}


def groups(weights, prefix):
    return {key: value for key, value in weights.items() if key.startswith(prefix)}


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_stages_and_players_move_what_is_theirs(context, tmp_path, listener, monkeypatch):
    made = context(EVERY_STEP)
    assert [(stage.name, stage.steps) for stage in made.stages] == [("pretrain", 3), ("prototypes", 2), ("adapt", 6)]
    moved = []
    statistics = []
    before = [parameters(made.model)]

    def running():
        return {k: v.clone() for k, v in made.model.named_buffers() if "running" in k}

    buffers = [running()]
    original = type(made.plugins).after_step

    def watch(self, model, report, clock):
        now, stats = parameters(made.model), running()
        moved.append(
            (
                report.stage,
                report.phase,
                {k.split(".")[0] + "." + k.split(".")[1] for k in now if not torch.equal(now[k], before[0][k])},
            )
        )
        statistics.append((report.phase, any(not torch.equal(stats[k], buffers[0][k]) for k in stats)))
        before[0], buffers[0] = now, stats
        original(self, model, report, clock)

    monkeypatch.setattr(type(made.plugins), "after_step", watch)
    run(made, tmp_path / "run", listener())
    expected = {
        ("pretrain", "encoder"): {"backbone.trunk", "backbone.projection"},
        ("prototypes", "prototypes"): {"heads.source"},
        ("adapt", "encoder"): {"backbone.trunk", "backbone.projection"},
        ("adapt", "prototypes"): {"heads.source", "heads.target"},
    }
    assert {(stage, phase) for stage, phase, _ in moved} == expected.keys()
    for place, (stage, phase, names) in enumerate(moved):
        start = stage == "adapt" and phase == "encoder" and place == 5  # M_t was set from M_s just before
        assert names - ({"heads.target"} if start else set()) == expected[stage, phase]
    assert all(changed == (phase == "encoder") for phase, changed in statistics)


def test_the_log_tells_of_trust_and_terms(context, tmp_path, listener):
    heard = listener()
    run(context(EVERY_STEP), tmp_path / "run", heard)
    names = {(r.stage, r.phase): set(r.terms) for r in heard.reports}
    short = {key: {name.removeprefix("pocan/") for name in value} for key, value in names.items()}
    inside = {"source_contrast", "source_in", "target_contrast", "target_in"}
    assert short == {
        ("pretrain", "encoder"): {"source_contrast"},
        ("prototypes", "prototypes"): {"source_prototypes"},
        ("adapt", "encoder"): inside | {"cross_source", "cross_target", "confusion"},
        ("adapt", "prototypes"): {"source_prototypes", "target_prototypes", "discrimination"},
    }
    adapting = [r for r in heard.reports if r.stage == "adapt" and r.phase == "encoder"]
    assert adapting[0].terms["pocan/target_in"] == 0.0  # lambda_t begins at 0
    assert adapting[-1].terms["pocan/target_in"] > 0.0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    refreshes = [line for line in lines if line["kind"] == "refresh"]
    assert [line["epoch"] for line in refreshes] == [0, 1]
    assert all(0 < line["pocan/trusted_share"] <= 1 for line in refreshes)


def test_resume_inside_stage_2_is_exact(context, tmp_path, listener, weights_of):
    run(context(EVERY_STEP), tmp_path / "whole", listener())
    left = weights_of(tmp_path / "whole")
    names = left["model"].keys()
    assert {"heads.target.weight", "parts.pocan/state.thresholds", "parts.pocan/state.probs"} <= names
    for stop in (4, 7, 10):  # among the source prototypes; in adaptation, each time in the middle of an epoch
        cut = tmp_path / f"cut{stop}"
        with pytest.raises(KeyboardInterrupt):
            run(context(EVERY_STEP), cut, listener(stop_after=stop))
        if stop > 5:
            saved = weights_of(cut)
            assert len(saved["optimisers"]) == 2
            assert saved["model"]["parts.pocan/state.trusted"].shape == (56,)
            assert saved["model"]["parts.pocan/state.adapted"]
        run(context(EVERY_STEP), cut, listener(), resume=True)
        right = weights_of(cut)
        assert [key for key in names if not torch.equal(left["model"][key], right["model"][key])] == []
        assert _tensors(left["optimisers"]) == _tensors(right["optimisers"])


def _tensors(tree):
    """The tree with tensors as lists, for comparison to the bit."""
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    if isinstance(tree, dict):
        return {key: _tensors(value) for key, value in tree.items()}
    return [_tensors(value) for value in tree] if isinstance(tree, list | tuple) else tree


def test_direct_transfer_is_the_adapted_runs_stage_1(context, tmp_path, listener, weights_of):
    with pytest.raises(KeyboardInterrupt):
        run(context(EVERY_STEP), tmp_path / "cut", listener(stop_after=6))
    record = run(context(EVERY_STEP, stages={"adapt": 0}), tmp_path / "dt", listener())
    from fercore.runs import checkpoint

    stage_1 = checkpoint.load(tmp_path / "cut/checkpoints" / checkpoint.name_of(5))["model"]
    alone = weights_of(tmp_path / "dt")["model"]
    assert record.steps == 5
    assert all(torch.equal(stage_1[key], alone[key]) for key in alone)
    assert not alone["parts.pocan/state.adapted"]


def test_an_average_of_the_weights_labels_by_the_prototypes_adaptation_starts_from(context, tmp_path, listener):
    made = context(EVERY_STEP, {"train": {"ema": 0.9}})
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path / "run", listener(stop_after=6))
    state, averaged = made.model.parts["pocan/state"], made.average.model
    assert state.adapted
    trained = made.model.heads["target"].weight
    # One small step after M_t was set: the average is next to it, not to what it was drawn as.
    torch.testing.assert_close(averaged.heads["target"].weight, trained, rtol=0, atol=0.02)
    assert (averaged.heads["source"].weight - made.model.heads["source"].weight).abs().max() > 0.02


@pytest.mark.parametrize(
    "settings",
    [{"variant": "official"}, {"alternate": "epoch"}, {"aug": {"kind": "weak"}}, {"refresh_every": 2}],
    ids=str,
)
def test_other_settings_run(context, tmp_path, listener, settings):
    heard = listener()
    fits = {"pocan": {"stages": {"prototypes_batch": 40}}} if settings == {"variant": "official"} else {}
    record = run(context(EVERY_STEP, fits, **settings), tmp_path / "run", heard)
    assert record.target.n > 0
    adapting = [r for r in heard.reports if r.stage == "adapt"]
    if settings == {"alternate": "epoch"}:
        assert [r.phase for r in adapting] == ["encoder"] * 3 + ["prototypes"] * 3
    if settings == {"variant": "official"}:
        assert all("pocan/confusion" not in r.terms for r in adapting)
        assert adapting[1].terms["pocan/target_prototypes"] == 0.0  # lambda_t is 0 through the first epoch
        assert adapting[-1].terms["pocan/target_prototypes"] > 0.0
        assert all(r.lr[0] == adapting[1].lr[0] for r in adapting if r.phase == "prototypes")


def test_the_report_holds_what_figures_2_and_3_need(context, tmp_path, listener):
    layer = {"report": {"features": True}}
    record = run(context(EVERY_STEP, layer), tmp_path / "run", listener())
    assert set(record.target.per_class_f1) == set(record.target.classes)
    with np.load(tmp_path / "run/features.npz", allow_pickle=False) as found:
        assert found["features/target"].shape == (record.target.n, 8)
        assert found["source/features/target"].shape == (168, 8)
        assert found["prototypes/source"].shape == found["prototypes/target"].shape == (7, 8)
        logits = found["features/target"] @ found["prototypes/target"].T
        assert (logits.argmax(1) == found["probs"].argmax(1)).all()
        np.testing.assert_allclose(np.linalg.norm(found["features/target"], axis=1), 1.0, rtol=1e-5)
