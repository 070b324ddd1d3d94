"""Both sides in one forward: the numbers of two forwards, batch statistics a side's own; and compiled networks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from timm.layers import BatchNormAct2d
from torch import nn

from fercore.builtin.defaults import Defaults
from fercore.engine import setup
from fercore.engine.phases import PhaseRunner
from fercore.engine.run import run
from fercore.engine.step import StepModule, train_step
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.manager import Plugins
from fercore.models import Model, normalised_apart
from fercore.records.plan import OptimiserSpec, Phase, Stage, ViewRequest
from fercore.records.step import Batch, DomainBatch, LossTerm, Progress, Role

SGD = {"name": "sgd", "lr": 0.01}
TINY = {"backbone": "resnet18", "backbone_args": {"resnet18": {"channels": [4, 4, 4, 4], "layers": [1, 1, 1, 1]}}}
VIEWS = (ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak"))


class Method(Plugin):
    def __init__(self):
        super().__init__("m", None)
        self.rows = []

    @hookimpl
    def encode(self, model, batch, view):
        self.rows.append(len(batch))
        return model(batch.images[view])

    @hookimpl
    def loss(self, batch, encoded):
        source, target = (encoded[side, "weak"] for side in ("source", "target"))
        value = nn.functional.cross_entropy(source.logits["main"], batch.source.labels)
        gap = (source.features["main"].mean(0) - target.features["main"].mean(0)).square().sum()
        return [LossTerm("m/ce", Role.SUPERVISED, value), LossTerm("m/gap", Role.ALIGNMENT, gap)]


def network():
    torch.manual_seed(0)
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6, momentum=None))
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 3), BatchNormAct2d(6), last)
    return Model(body, {"main": nn.Identity()}, {"main": nn.Linear(6, 3)}, (0.5,) * 3, (0.5,) * 3).double()


def side(labels, size=8):
    torch.manual_seed(len(labels))
    zero = torch.zeros(len(labels), dtype=torch.int64)
    return DomainBatch({"weak": torch.randn(len(labels), 3, size, size).double()}, torch.tensor(labels), zero, zero)


def three_steps(joint, target_size=8, views=VIEWS):
    model, method = network(), Method()
    phase = Phase("main", optimiser=OptimiserSpec(lr=0.1, momentum=0.9, weight_decay=0.0, schedule="constant"))
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    runner = PhaseRunner(fabric, phase, Stage("train", 3, (phase,)), model)
    module = fabric.setup_module(StepModule(model, Plugins([Defaults()], [method], {}), joint=joint))
    batch = Batch(side([0, 1, 2]), side([-1] * 5, target_size))
    for step in range(3):
        clock = Progress("train", "main", 0, step, 3)
        train_step(fabric, module, runner, batch, views, clock)
    return model, method.rows


def test_one_forward_gives_the_weights_and_statistics_of_two():
    apart, rows = three_steps(joint=False)
    together, joined = three_steps(joint=True)
    assert rows == [3, 5] * 3
    assert joined == [8] * 3
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value, apart.state_dict()[name], rtol=1e-11, atol=1e-12)


def test_a_view_without_statistics_leaves_no_trace_and_trains_the_same():
    quiet = (ViewRequest("source", "weak", "weak", batch_statistics=False), VIEWS[1])
    both, rows = three_steps(joint=False)
    target_alone, quiet_rows = three_steps(joint=True, views=quiet)
    assert quiet_rows == rows  # two forwards: one of them leaves no trace
    for name, value in target_alone.state_dict().items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(value, both.state_dict()[name], rtol=1e-11, atol=1e-12)
    tracked = target_alone.backbone.get_submodule("1").num_batches_tracked
    assert int(tracked) == 3
    assert int(both.backbone.get_submodule("1").num_batches_tracked) == 6


def test_of_two_who_share_a_view_one_that_moves_statistics_is_enough():
    quiet = ViewRequest("source", "weak", "weak", batch_statistics=False)
    shared, _ = three_steps(joint=False, views=(quiet, *VIEWS))
    assert int(shared.backbone.get_submodule("1").num_batches_tracked) == 6


def test_sides_of_different_image_size_pass_apart():
    assert three_steps(joint=True, target_size=10)[1] == [3, 5] * 3


def test_the_network_is_left_as_it_was():
    model = network()
    before = [module.__dict__.get("forward") for module in model.modules()]
    with pytest.raises(RuntimeError), normalised_apart(model, [1, 1]):
        model(torch.zeros(2, 3, 1, 1).double())
    assert [module.__dict__.get("forward") for module in model.modules()] == before


def weights(context, folder, listener):
    run(context, folder, listener())
    return {name: value.clone() for name, value in context.model.state_dict().items()}


@pytest.mark.slow
def test_a_method_that_allows_it_trains_the_same(make_context, tmp_path, listener):
    found = {}
    for joint in (False, True):
        context = make_context("la_cmfer", layers=({"train": {"joint_forward": joint, "steps": 2}, "optim": SGD},))
        assert context.joint is joint
        found[joint] = weights(context, tmp_path / str(joint), listener)
    for key, value in found[True].items():
        torch.testing.assert_close(value, found[False][key], rtol=1e-3, atol=1e-5)


def test_a_method_that_does_not_say_so_keeps_two_forwards(make_context):
    assert not make_context("source_only", layers=({"train": {"joint_forward": True}},)).joint


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_a_compiled_network_trains_the_same(make_context, tmp_path, listener, monkeypatch, backend):
    monkeypatch.setattr(setup.torch, "compile", partial(torch.compile, backend=backend))
    layers = [{"train": {"compile": on, "steps": 2, "ema": 0.5}, "optim": SGD, "model": TINY} for on in (False, True)]
    plain, compiled = (
        weights(make_context("fixmatch", layers=(layer,)), tmp_path / str(number), listener)
        for number, layer in enumerate(layers)
    )
    for key, value in compiled.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-3, atol=1e-4)


def test_a_machine_that_cannot_compile_says_so_first(make_context, monkeypatch):
    def broken(call):
        def compiled(images):
            raise RuntimeError("no C++ compiler found\nand a long text")

        return compiled

    monkeypatch.setattr(setup.torch, "compile", broken)
    with pytest.raises(UserInputError, match=r"RuntimeError: no C\+\+ compiler found") as caught:
        make_context("source_only", layers=({"train": {"compile": True}},))
    assert caught.value.where == "train.compile"
