from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from fercore.builtin.defaults import Defaults
from fercore.engine.phases import PhaseRunner
from fercore.engine.step import NonFiniteLoss, train_step
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.checks import HookError
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.records.plan import OptimiserSpec, Phase, Stage, ViewRequest
from fercore.records.step import Batch, DomainBatch, LossTerm, Progress, PseudoLabels, Role

VIEWS = (ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak"))
CLOCK = Progress("train", "main", 0, 0, 10)


def side(labels):
    zero = torch.zeros(len(labels), dtype=torch.int64)
    images = {"weak": torch.randn(len(labels), 3, 2, 2, generator=torch.Generator().manual_seed(0))}
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


def make(method):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    model = Model(backbone, {"main": nn.Identity()}, {"main": nn.Linear(4, 3)}, (0.5,) * 3, (0.5,) * 3)
    phase = Phase("main", optimiser=OptimiserSpec(lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant"))
    fabric = Fabric(accelerator="cpu", devices=1)
    runner = PhaseRunner(fabric, phase, Stage("train", 10, (phase,)), model)
    return fabric, Plugins([Defaults()], [method], {}), model, runner


def test_the_step_reads_top_to_bottom():
    method = Method()
    fabric, plugins, model, runner = make(method)
    report = train_step(fabric, plugins, model, runner, BATCH, VIEWS, CLOCK)
    assert method.log == [("pseudo_label", False), ("align", True, 2), ("loss", True), ("after_step", False)]
    assert list(report.terms) == ["m/ce", "m/gap"]
    assert report.total == pytest.approx(sum(report.terms.values()))
    assert report.images == 5


def test_the_step_descends_the_weighted_sum():
    method = Method()
    fabric, plugins, model, runner = make(method)
    twin = make(Method())[2]
    encoded_s, encoded_t = twin(BATCH.source.images["weak"]), twin(BATCH.target.images["weak"])
    gap = (encoded_s.features["main"].mean(0) - encoded_t.features["main"].mean(0)).pow(2).sum()
    total = nn.functional.cross_entropy(encoded_s.logits["main"], BATCH.source.labels) + 0.5 * gap
    gradients = torch.autograd.grad(total, list(twin.parameters()))
    train_step(fabric, plugins, model, runner, BATCH, VIEWS, CLOCK)
    for now, old, gradient in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(now, old - 0.1 * gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_changes_nothing(value):
    fabric, plugins, model, runner = make(Method([LossTerm("m/bad", Role.SUPERVISED, torch.tensor(value))]))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteLoss, match=r"loss term 'm/bad' is (nan|inf) \(stage train, step 0\)"):
        train_step(fabric, plugins, model, runner, BATCH, VIEWS, CLOCK)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("terms", [[], [LossTerm("m/none", Role.SUPERVISED, torch.tensor(2.0))]])
def test_a_step_that_selects_nothing_is_skipped(terms):
    method = Method(terms)
    fabric, plugins, model, runner = make(method)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "align", lambda *arguments: [])
        report = train_step(fabric, plugins, model, runner, BATCH, VIEWS, CLOCK)
    assert (report.skipped, report.total) == (True, 2.0 if terms else 0.0)
    assert method.log[-1] == ("after_step", False)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_two_terms_of_one_name_are_an_error():
    terms = [LossTerm("m/gap", Role.SUPERVISED, torch.ones(()))]  # as align's
    fabric, plugins, model, runner = make(Method(terms))
    with pytest.raises(HookError, match="share a name"):
        train_step(fabric, plugins, model, runner, BATCH, VIEWS, CLOCK)
