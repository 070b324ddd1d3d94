from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from fercore.builtin.defaults import Defaults
from fercore.engine.phases import PhaseRunner
from fercore.engine.step import NonFiniteLoss, StepModule, train_step
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.checks import HookError
from fercore.hooks.manager import Plugins
from fercore.models import Model, restore_bn_stats, swap_bn_stats
from fercore.records.plan import OptimiserSpec, Phase, Stage, ViewRequest
from fercore.records.step import Batch, DomainBatch, LossTerm, Progress, PseudoLabels, Role

VIEWS = (ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak"))
CLOCK = Progress("train", "main", 0, 0, 10)


def side(labels):
    zero = torch.zeros(len(labels), dtype=torch.int64)
    images = {"weak": torch.randn(len(labels), 3, 2, 2, generator=torch.Generator().manual_seed(0)).double()}
    return DomainBatch(images, torch.tensor(labels), zero, zero)


BATCH = Batch(side([0, 1, 2]), side([-1, -1]))


class Method(Plugin):
    """Logs the order of the core hooks."""

    def __init__(self, terms=None):
        super().__init__("m", None)
        self.terms = terms
        self.log = []

    @hookimpl
    def pseudo_label(self, encoded):
        self.log.append(("pseudo_label", torch.is_grad_enabled()))
        logits = encoded[("target", "weak")].logits["main"]
        return PseudoLabels(logits.argmax(1), torch.ones(len(logits)), logits.softmax(1))

    @hookimpl
    def align(self, encoded, pseudo):
        self.log.append(("align", torch.is_grad_enabled(), pseudo.labels.shape[0]))
        gap = encoded[("source", "weak")].features["main"].mean(0) - encoded[("target", "weak")].features["main"].mean(
            0
        )
        return [LossTerm("m/gap", Role.ALIGNMENT, gap.pow(2).sum(), 0.5)]

    @hookimpl
    def loss(self, batch, encoded):
        self.log.append(("loss", torch.is_grad_enabled()))
        if self.terms is not None:
            return self.terms
        value = nn.functional.cross_entropy(encoded[("source", "weak")].logits["main"], batch.source.labels)
        return [LossTerm("m/ce", Role.SUPERVISED, value)]

    @hookimpl
    def after_step(self, report):
        self.log.append(("after_step", torch.is_grad_enabled()))


def make(*plugins, **spec):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
    model = Model(backbone, {"main": nn.Identity()}, {"main": nn.Linear(4, 3)}, (0.5,) * 3, (0.5,) * 3).double()
    settings = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", **spec}
    phase = Phase("main", optimiser=OptimiserSpec(**settings))
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    runner = PhaseRunner(fabric, phase, Stage("train", 10, (phase,)), model)
    return fabric, fabric.setup_module(StepModule(model, Plugins([Defaults()], plugins, {}))), model, runner


def test_the_step_reads_top_to_bottom():
    method = Method()
    fabric, module, _, runner = make(method)
    report = train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
    assert method.log == [("pseudo_label", False), ("align", True, 2), ("loss", True), ("after_step", False)]
    assert list(report.terms) == ["m/ce", "m/gap"]
    assert report.total == pytest.approx(sum(report.terms.values()))
    assert report.images == 5


def test_the_step_descends_the_weighted_sum():
    method = Method()
    fabric, module, model, runner = make(method)
    twin = make(Method())[2]
    encoded_s, encoded_t = twin(BATCH.source.images["weak"]), twin(BATCH.target.images["weak"])
    gap = (encoded_s.features["main"].mean(0) - encoded_t.features["main"].mean(0)).pow(2).sum()
    total = nn.functional.cross_entropy(encoded_s.logits["main"], BATCH.source.labels) + 0.5 * gap
    gradients = torch.autograd.grad(total, list(twin.parameters()))
    train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
    for now, old, gradient in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(now, old - 0.1 * gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_changes_nothing(value):
    fabric, module, model, runner = make(Method([LossTerm("m/bad", Role.SUPERVISED, torch.tensor(value))]))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLoss, match=r"loss term 'm/bad' is (nan|inf) \(stage train, step 0\)"):
        train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("terms", [[], [LossTerm("m/none", Role.SUPERVISED, torch.tensor(2.0))]])
@pytest.mark.parametrize("name", ["sgd", "sgdw", "adamw"])
def test_a_step_that_selects_nothing_is_skipped(terms, name):
    """Neither momentum nor decay moves a weight, of all optimisers; the schedule goes on."""
    method = Method()
    decay = {"weight_decay": 0.1, "decay_by_rate": name != "sgdw"}
    fabric, module, model, runner = make(method, name=name, lr=1.0, momentum=0.9, schedule="linear", **decay)
    assert not train_step(fabric, module, runner, BATCH, VIEWS, CLOCK).skipped
    runner.scheduled.advance()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.plugins, "align", lambda *arguments: [])
        patch.setattr(module.plugins, "loss", lambda *arguments: terms)
        report = train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
    runner.scheduled.advance()
    assert (report.skipped, report.total) == (True, 2.0 if terms else 0.0)
    assert method.log[-1] == ("after_step", False)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert runner.learning_rates() == pytest.approx([0.8])  # two of ten steps are over


class SharpnessAware(Plugin):
    """The gradient where the loss is largest within rho, stepped down from here (Foret et al., ICLR 2021)."""

    kind = "addon"
    rho, keep = 0.05, None

    def __init__(self):
        super().__init__("sam", None)

    @hookimpl
    def backward(self, model, closure):
        first = closure(self.keep)
        moved = [p for p in model.parameters() if p.grad is not None]
        here = [p.detach().clone() for p in moved]
        norm = torch.stack([p.grad.norm() for p in moved]).norm()
        with torch.no_grad():
            for p in moved:
                p.add_(p.grad, alpha=self.rho / (norm.item() + 1e-12))
        statistics = swap_bn_stats(model)  # those of the weights themselves are kept
        try:
            closure()
        finally:
            restore_bn_stats(model, statistics)
            with torch.no_grad():
                for p, old in zip(moved, here, strict=True):
                    p.copy_(old)
        return first


class SmoothTask(SharpnessAware):
    """Sharpness of the supervised terms alone, the gradient of all (SDAT: Rangwani et al., ICML 2022)."""

    keep = staticmethod(lambda term: term.role is Role.SUPERVISED)


@pytest.mark.parametrize("kind", [SharpnessAware, SmoothTask])
def test_an_add_on_runs_a_second_forward(kind):
    """Three steps of SAM as an add-on are three of SAM written out, batch statistics and momentum included."""
    method, addon = Method(), kind()
    fabric, module, model, runner = make(method, addon, momentum=0.9, nesterov=False)
    twin = make(Method())[2]
    twin.load_state_dict(model.state_dict())
    plain = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)

    def terms():
        source, target = (twin(side.images["weak"]) for side in (BATCH.source, BATCH.target))
        gap = (source.features["main"].mean(0) - target.features["main"].mean(0)).square().sum()
        return nn.functional.cross_entropy(source.logits["main"], BATCH.source.labels), 0.5 * gap

    for _ in range(3):
        report = train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
        supervised, gap = terms()
        total = supervised if kind is SmoothTask else supervised + gap
        assert report.total == pytest.approx(total.item(), rel=1e-6)  # terms are summed in float32
        slopes = torch.autograd.grad(total, list(twin.parameters()))
        length = sum(slope.square().sum() for slope in slopes).sqrt() + 1e-12
        kept = copy.deepcopy(twin.state_dict())
        with torch.no_grad():
            for p, slope in zip(twin.parameters(), slopes, strict=True):
                p.add_(0.05 * slope / length)
        plain.zero_grad()
        sum(terms()).backward()
        twin.load_state_dict(kept)
        plain.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-12, atol=1e-14)
    assert method.log.count(("loss", True)) == 6
    assert method.log.count(("after_step", False)) == 3


def test_forwards_of_a_step_are_numbered_and_end_with_it():
    seen, kept = [], []

    class Counting(Plugin):
        kind = "addon"

        @hookimpl
        def loss(self, clock):
            seen.append(clock.forward)
            return []

        @hookimpl
        def backward(self, closure):
            kept.append(closure)
            return (closure(), closure())[1]

    fabric, module, _, runner = make(Method(), Counting("counting", None))
    train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
    assert seen == [0, 1]
    with pytest.raises(HookError, match="inside `backward` alone"):
        kept[0]()


def test_two_terms_of_one_name_are_an_error():
    terms = [LossTerm("m/gap", Role.SUPERVISED, torch.ones(()))]  # as align's
    fabric, module, _, runner = make(Method(terms))
    with pytest.raises(HookError, match="share a name"):
        train_step(fabric, module, runner, BATCH, VIEWS, CLOCK)
