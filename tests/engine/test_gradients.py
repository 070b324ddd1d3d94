"""Looks at the gradients of a step's terms: their numbers, and that training does not notice."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from fercore.builtin.defaults import Defaults
from fercore.engine.gradients import FeatureGradients, refuse_gradients
from fercore.engine.phases import PhaseRunner
from fercore.engine.run import run
from fercore.engine.step import StepModule, train_step
from fercore.errors import UserInputError
from fercore.hooks import hookimpl
from fercore.hooks.manager import Plugins
from fercore.records.plan import OptimiserSpec, Phase, Stage
from fercore.records.step import Batch, LossTerm, Role
from fercore.reporting.collect import RunFiles
from fercore.reporting.gradients import gradients
from tests.engine import test_joint_forward as joined
from tests.engine.test_step import BATCH, CLOCK, VIEWS, Method, SmoothTask, make


class Against(Method):
    """The gap of two samples, the opposite of the supervised term, and a term without a gradient."""

    @hookimpl
    def align(self, encoded):
        source, target = (encoded[side, "weak"].features["main"] for side in ("source", "target"))
        # Not of the means, which batch normalisation has made equal.
        return [LossTerm("m/gap", Role.ALIGNMENT, (source[0] - target[0]).square().sum(), 0.5)]

    @hookimpl
    def loss(self, batch, encoded):
        value = nn.functional.cross_entropy(encoded["source", "weak"].logits["main"], batch.source.labels)
        still = LossTerm("m/still", Role.REGULARISER, torch.tensor(1.0))
        return [LossTerm("m/ce", Role.SUPERVISED, value), LossTerm("m/less", Role.REGULARISER, -value, 2.0), still]


def looked(method, *more, batch=BATCH):
    fabric, module, model, runner = make(method, *more)
    with torch.no_grad():
        features = {side: model(batch.side(side).images["weak"]).features["main"] for side in ("source", "target")}
    found = FeatureGradients(model, CLOCK)
    head = [p.detach().clone() for p in model.heads.parameters()]
    train_step(fabric, module, runner, batch, VIEWS, CLOCK, gradients=found)
    return found, features, head


def test_norms_and_cosines_are_those_of_the_terms():
    found, features, (weight, bias) = looked(Against())
    gap = features["source"][0] - features["target"][0]
    size = pytest.approx(gap.norm().item(), rel=1e-6)
    assert found.norms["m/gap"]["branches.main"] == {"source": size, "target": size}
    source = features["source"].clone().requires_grad_()
    value = nn.functional.cross_entropy(source @ weight.T + bias, BATCH.source.labels)
    (by_hand,) = torch.autograd.grad(value, source)
    assert found.norms["m/ce"]["branches.main"]["source"] == pytest.approx(by_hand.norm().item(), rel=1e-6)
    assert found.norms["m/ce"]["branches.main"]["target"] == 0
    assert found.norms["m/ce"]["backbone"] == found.norms["m/ce"]["branches.main"]  # the branch passes it through
    assert found.cosines["m/less"]["branches.main"] == {"source": pytest.approx(-1)}
    assert found.norms["m/less"]["backbone"]["source"] == pytest.approx(2 * by_hand.norm().item(), rel=1e-6)
    cosine = (gap @ by_hand[0] / gap.norm() / by_hand.norm()).item()
    assert abs(cosine) > 0.01
    assert found.cosines["m/gap"]["backbone"] == {"source": pytest.approx(cosine, rel=1e-5)}
    assert "m/ce" not in found.cosines
    assert "m/still" not in found.norms


def test_a_step_moves_as_if_nobody_had_looked():
    states = []
    for look in (False, True):
        fabric, module, model, runner = make(Against(), SmoothTask(), momentum=0.9)
        torch.manual_seed(1)
        for _ in range(3):
            found = FeatureGradients(model, CLOCK) if look else None
            train_step(fabric, module, runner, BATCH, VIEWS, CLOCK, gradients=found)
        states.append({**model.state_dict(), "random": torch.get_rng_state()})
        assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_all_terms_are_looked_at_where_the_first_forward_is_of_some():
    found, *_ = looked(Against(), SmoothTask())
    assert set(found.norms) == {"m/ce", "m/gap", "m/less"}


def test_rows_of_a_joint_forward_are_told_apart():
    found = {}
    for joint in (False, True):
        model, fabric = joined.network(), Fabric(accelerator="cpu", devices=1, precision="64-true")
        phase = Phase("main", optimiser=OptimiserSpec(lr=0.1))
        runner = PhaseRunner(fabric, phase, Stage("train", 3, (phase,)), model)
        step = StepModule(model, Plugins([Defaults()], [joined.Method()], {}), joint=joint)
        found[joint] = FeatureGradients(model, CLOCK)
        batch = Batch(joined.side([0, 1, 2]), joined.side([-1] * 5))
        train_step(fabric, fabric.setup_module(step), runner, batch, VIEWS, CLOCK, gradients=found[joint])
    for term, places in found[False].norms.items():
        for place, sides in places.items():
            assert found[True].norms[term][place] == pytest.approx(sides, rel=1e-9, abs=1e-12)
    assert found[True].norms["m/ce"]["branches.main"]["source"] > 0 == found[True].norms["m/ce"]["backbone"]["target"]


@pytest.mark.slow
def test_a_run_logs_them_and_trains_to_the_same_bits(tmp_path, make_context, listener, weights_of):
    layer = {"train": {"steps": 5}}
    for name, every in (("off", 0), ("on", 2)):
        context = make_context("source_only", layers=(layer, {"report": {"gradients": every}}))
        run(context, tmp_path / name, listener())
    off, on = (weights_of(tmp_path / name) for name in ("off", "on"))
    assert all(torch.equal(value, on["model"][name]) for name, value in off["model"].items())
    assert torch.equal(off["random"]["torch"], on["random"]["torch"])
    lines = [json.loads(line) for line in (tmp_path / "on/metrics.jsonl").read_text().splitlines()]
    assert [line["done"] for line in lines if line["kind"] == "gradients"] == [1, 2, 4, 5]
    assert "gradients" not in (tmp_path / "off/metrics.jsonl").read_text()
    table, note = gradients(RunFiles(tmp_path / "on"))
    assert table.title == "Gradients of the terms, 4 looks"
    assert {row[0] for row in table.rows} == set(lines[0]["terms"])
    assert {row[1] for row in table.rows} == {"backbone", "branches.main"}
    assert "below 0" in note.text
    assert list(gradients(RunFiles(tmp_path / "off"))) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"devices": 2}, "several processes"),
        ({"train.accumulate": 2}, "in pieces"),
        ({"train.compile": True}, "one graph"),
        ({"train.precision": "16-mixed"}, "scaled"),
        ({"stream": True}, "a stream's batches"),
    ],
)
def test_where_there_is_nothing_to_look_at(change, why):
    train = SimpleNamespace(accumulate=1, compile=False, precision="32-true")
    config = SimpleNamespace(train=train, devices=1, num_nodes=1, report=SimpleNamespace(gradients=1))
    stages = (SimpleNamespace(stream=change.pop("stream", False)),)
    refuse_gradients(config, [SimpleNamespace(stream=False)])
    for name, value in change.items():
        setattr(train if name.startswith("train.") else config, name.removeprefix("train."), value)
    with pytest.raises(UserInputError, match=f"no gradient at the features.*{why}.*take report.gradients=0"):
        refuse_gradients(config, stages)
    config.report.gradients = 0
    refuse_gradients(config, stages)
