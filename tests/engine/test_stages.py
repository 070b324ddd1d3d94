"""Stages of their own length, views and batches; phases in turns; what the report says of heads and sources."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fercore.builtin.supervised import SourceOnly
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.checks import HookError
from fercore.hooks.discovery import PluginInfo
from fercore.records.plan import CropAndColour, OptimiserSpec, ParamGroup, Phase, Stage, ViewRequest
from fercore.records.step import LossTerm, Role


class Staged(Plugin):
    """Two stages with views and batch sizes of their own; the second lets its phases move in turns."""

    views = (
        ViewRequest("source", "wide", CropAndColour(), ("first",)),
        ViewRequest("source", "weak", "weak", ("second",)),
        ViewRequest("target", "weak", "weak", ("second",)),
    )
    seen: list = []

    @hookimpl
    def build_model(self, config, num_classes):
        return SourceOnly("staged", None).build_model(config, num_classes)

    @hookimpl
    def request_views(self):
        return self.views

    @hookimpl
    def plan(self, config):
        sgd = OptimiserSpec(lr=0.01, reset_optimizer_state=True, schedule="step", milestones=(0.5,))
        one, two = (Phase(name, (ParamGroup((f"{name}.",)),), sgd) for name in ("backbone", "heads"))
        return [
            Stage("first", phases=(Phase(optimiser=sgd),), epochs=2, source_batch=56),
            Stage("second", 8, (one, two), steps_per_epoch=2, target_batch=7, alternating="epoch"),
        ]

    @hookimpl
    def loss(self, batch, encoded, clock):
        sizes = (len(batch.source), len(batch.target))
        self.seen.append((clock.stage, clock.phase, clock.epoch, sorted(encoded), sizes))
        side = encoded[("source", "wide" if clock.stage == "first" else "weak")]
        value = torch.nn.functional.cross_entropy(side.logits["main"], batch.source.labels)
        return [LossTerm("staged/ce", Role.SUPERVISED, value)]


@pytest.fixture(scope="module")
def staged(tiny):
    def make(views=Staged.views, kind=Staged):
        layers = [tiny, {"train": {"checkpoint_every": 1}}]
        config = assemble(["source_only"], layers).config.model_copy(update={"plugins": {}})
        plugin = type("Staged", (kind,), {"views": views})("staged", None)
        Staged.seen.clear()
        return build_context(ResolvedRun(config, (plugin,), (PluginInfo("staged", "tests:Staged", "tests", "0", ""),)))

    return make


@pytest.fixture(scope="module")
def whole(staged, listener, weights_of, tmp_path_factory):
    """What a run that nothing stops reports and sees, and its weights."""
    folder, heard = tmp_path_factory.mktemp("whole") / "run", listener()
    run(staged(), folder, heard)
    return heard.reports, list(Staged.seen), weights_of(folder)["model"]


def test_stages_have_their_own_views_batches_and_lengths(staged, whole):
    context = staged()
    assert [(stage.steps, stage.epochs) for stage in context.stages] == [
        (6, None),
        (8, None),
    ]  # 168 samples by 56, twice
    _, seen, _ = whole
    first, second = seen[:6], seen[6:]
    assert {entry[4] for entry in first} == {(56, 14)}
    assert {entry[4] for entry in second} == {(28, 7)}
    assert all(entry[3] == [("source", "wide")] for entry in first)
    assert all(entry[3] == [("source", "weak"), ("target", "weak")] for entry in second)


def test_phases_in_turns_move_one_epoch_each(whole):
    reports = [report for report in whole[0] if report.stage == "second"]
    assert [(r.phase, r.epoch) for r in reports] == [
        (phase, epoch) for epoch, phase in enumerate(["backbone", "heads"] * 2) for _ in range(2)
    ]
    # Each phase has four steps of its own, so its rate drops after two of them.
    assert [r.lr[0] for r in reports if r.phase == "heads"] == pytest.approx([0.01, 0.01, 0.001, 0.001])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [5, 6, 9, 12, 13])
def test_resume_in_any_stage_gives_the_same_bits(staged, tmp_path, listener, weights_of, stop, whole):
    with pytest.raises(KeyboardInterrupt):
        run(staged(), tmp_path / "cut", listener(stop_after=stop))
    run(staged(), tmp_path / "cut", listener(), resume=True)
    left, right = whole[-1], weights_of(tmp_path / "cut")["model"]
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


class Adversarial(Staged):
    """Phases that share moments, one of them three times a batch."""

    @hookimpl
    def plan(self):
        adam = OptimiserSpec("adam", lr=0.01, schedule="cosine")
        heads, rest = ((ParamGroup((name,)),) for name in ("heads.", "backbone."))
        phases = (
            Phase("fit", optimiser=adam),
            Phase("max", heads, shares="fit"),
            Phase("min", rest, shares="fit", repeats=3),
        )
        return [Stage("first", 4, phases, steps_per_epoch=2)]

    @hookimpl
    def loss(self, batch, encoded, clock):
        (term,) = super().loss(batch, encoded, clock)
        self.seen[-1] = (clock.phase, clock.repeat)
        return [replace(term, weight=-0.1 if clock.phase == "max" else 1.0)]


@pytest.mark.slow
def test_phases_that_share_and_repeat_resume_to_the_bit(staged, tmp_path, listener, weights_of):
    views = Staged.views[:1]
    run(staged(views, Adversarial), tmp_path / "whole", listener())
    assert Staged.seen == [("fit", 0), ("max", 0), ("min", 0), ("min", 1), ("min", 2)] * 4
    with pytest.raises(KeyboardInterrupt):
        run(staged(views, Adversarial), tmp_path / "cut", listener(stop_after=3))
    run(staged(views, Adversarial), tmp_path / "cut", listener(), resume=True)
    left, right = (weights_of(tmp_path / folder) for folder in ("whole", "cut"))
    assert len(left["optimisers"]) == 1
    assert all(torch.equal(left["model"][key], right["model"][key]) for key in left["model"])
    moments = [
        {key: value["exp_avg"] for key, value in saved["optimisers"][0]["optimiser"]["state"].items()}
        for saved in (left, right)
    ]
    assert moments[0]
    assert all(torch.equal(value, moments[1][key]) for key, value in moments[0].items())


class Selecting(Staged):
    """Finds nothing to learn from in two of three batches."""

    @hookimpl
    def plan(self):
        return [Stage("first", 6, (Phase(optimiser=OptimiserSpec(lr=0.01)),))]

    @hookimpl
    def loss(self, batch, encoded, clock):
        return super().loss(batch, encoded, clock) if clock.step % 3 == 0 else []


@pytest.mark.slow
def test_skipped_steps_are_logged_and_counted_over_a_resume(staged, tmp_path, listener, weights_of):
    views = Staged.views[:1]
    run(staged(views, Selecting), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(staged(views, Selecting), tmp_path / "cut", listener(stop_after=3))
    heard = listener()
    record = run(staged(views, Selecting), tmp_path / "cut", heard, resume=True)
    assert record.skipped_steps == {"first/main": 4}
    assert "4 steps of first/main had no loss with a gradient: skipped" in heard.messages
    for folder in ("whole", "cut"):
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["skipped"] for line in lines if line["kind"] == "step"] == [0, 1, 2, 2, 3, 4]
    left, right = (weights_of(tmp_path / folder)["model"] for folder in ("whole", "cut"))
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ((*Staged.views, ViewRequest("source", "x", "weak", ("third",))), r"names stages \['third'\]"),
        (Staged.views[1:], "no view is asked for in stage 'first'"),
    ],
)
def test_views_and_stages_must_fit(staged, views, message):
    with pytest.raises(HookError, match=message):
        staged(views)


@pytest.mark.parametrize("lengths", [{}, {"steps": 3, "epochs": 2}, {"epochs": 0}])
def test_a_stage_has_one_length(lengths):
    with pytest.raises(ValueError, match="either steps or epochs"):
        Stage("a", **lengths)


def test_the_report_holds_sources_prototypes_and_f1(make_context, tmp_path, listener):
    context = make_context("source_only", layers=({"report": {"features": True}},))
    context.model.heads["main"] = torch.nn.Linear(8, 7)
    record = run(context, tmp_path / "run", listener())
    with np.load(tmp_path / "run/features.npz", allow_pickle=False) as found:
        assert found["source/features/main"].shape == (168, 8)
        assert set(np.unique(found["source/domain"])) == {0, 1}
        assert (found["source/labels"] >= 0).all()
        weight = context.model.heads["main"].weight.detach().numpy()
        np.testing.assert_array_equal(found["prototypes/main"], weight)
        rows = found["features/main"] @ weight.T + context.model.heads["main"].bias.detach().numpy()
        np.testing.assert_allclose(rows, found["logits/main"], atol=1e-4)
    target = json.loads((tmp_path / "run/result.json").read_text())["target"]
    confusion = np.array(target["confusion"])
    for k, name in enumerate(target["classes"]):
        f1 = 2 * confusion[k, k] / max(1, confusion[k].sum() + confusion[:, k].sum())
        assert target["per_class_f1"][name] == pytest.approx(f1)
    assert record.target.macro_f1 == pytest.approx(np.mean(list(target["per_class_f1"].values())))
