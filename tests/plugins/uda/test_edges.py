"""Batches that a method must survive, and the choices that every method has."""

from __future__ import annotations

import math

import pytest
import torch

from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.losses import class_confusion, class_shares, column_norms, nuclear_norm
from fercore.models import GroupedDomainHeads

NAMES = sorted(name for name, info in installed_plugins().items() if info.distribution == "fercore-uda")
GENERAL = [name for name in NAMES if name not in ("adda", "atdoc", "can_cdd", "dsbn", "fixbi", "sdat")]
"""Those whose step needs nothing but two batches; the others stand in test_banks_and_steps.py."""
METHODS = [name for name in GENERAL if load_class(installed_plugins()[name]).kind == "method"]


def slopes(one):
    leaves = [leaf for members in one.groups().values() for leaf in members]
    total = sum(term.weight * term.value for term in one.terms().values())
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return float(total.detach()), [grad for grad in found if grad is not None]


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize(("source", "target"), [(6, 1), (1, 6), (1, 1), (2, 3)])
def test_few_samples_and_absent_classes(name, source, target, step):
    one = step(name, source=source, target=target)
    value, grads = slopes(one)
    assert math.isfinite(value)
    assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.parametrize("name", ["atdoc", "can_cdd", "adda"])
@pytest.mark.parametrize(("source", "target"), [(6, 1), (1, 6), (1, 1), (6, 0)])
def test_few_samples_of_methods_with_a_memory(name, source, target, step):
    """A sample alone, classes absent, nobody sure of anything, no cluster, no target."""
    one = step(name, {"hidden": 3} if name == "adda" else {"nearest": 2} if name == "atdoc" else {}, source, target)
    if name == "can_cdd":
        one.model.parts["can_cdd/clusters"].put("labels", torch.tensor([0, 1, -1, 3, 0, 1]))
    if name == "atdoc":
        bank = one.model.parts["atdoc/bank"]
        bank.put("features", torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64)))
        bank.put("shares", torch.zeros(6, 4, dtype=torch.float64))
    for phase in ("critic", "map") if name == "adda" else ("main",):
        one.clock = type(one.clock)("adapt", phase, 0, 1, 10)
        terms = one.terms(target_view="adapted" if name == "adda" else "weak").values()
        total = sum((term.weight * term.value for term in terms), 0 * one.x.sum())
        grads = torch.autograd.grad(total, [one.x, one.y, *one.model.parameters()], allow_unused=True)
        assert math.isfinite(float(total.detach()))
        assert all(bool(grad.isfinite().all()) for grad in grads if grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_one_side_has_no_alignment(name, step):
    assert {term.role.value for term in step(name, target=0).terms().values()} == {"supervised"}


@pytest.mark.parametrize("name", GENERAL)
def test_a_constant_batch(name, step):
    one = step(name)
    one.x, one.y = (torch.ones_like(rows).requires_grad_() for rows in (one.x, one.y))
    value, grads = slopes(one)
    assert math.isfinite(value)
    assert all(bool(grad.isfinite().all()) for grad in grads)


BRIDGES = {"gvb": {"generator": 0.0, "discriminator": 0.0}}  # whose sizes are no game


@pytest.mark.parametrize("name", ["dann", "cdan", "mada", "mdd", "daln", "gvb", "mstn", "aglrls"])
def test_at_the_first_step_no_gradient_is_reversed(name, step):
    one = step(name, BRIDGES.get(name))
    one.clock = type(one.clock)("train", "main", 0, 0, 1000)
    term = next(term for term in one.terms().values() if term.role.value == "adversarial")
    (slope,) = torch.autograd.grad(term.value, [one.x])
    assert not slope.any()


APART = [name for name in METHODS if "sources" in load_class(installed_plugins()[name]).Settings.model_fields]


@pytest.mark.parametrize("name", APART)
def test_apart_is_the_mean_over_sources(name, step):
    settings = {"sources": "apart"} | ({"dropout": 0.0} if name == "mdd" else {})
    one = step(name, settings, source=10, domains=2)
    one.model.eval()
    together = term_of(one)
    x, labels, domain = one.x, one.labels, one.domain
    alone = []
    for number in range(2):
        rows = domain == number
        one.x, one.labels, one.domain = x[rows], labels[rows], torch.zeros(5, dtype=torch.int64)
        alone.append(term_of(one))
    assert together == pytest.approx(sum(alone) / 2, rel=1e-9)


def term_of(one):
    torch.manual_seed(0)
    return next(float(term.value.detach()) for short, term in one.terms().items() if short != "cross_entropy")


@pytest.mark.parametrize("name", ["ddc", "cmd", "mdd"])
def test_class_weights_are_repeated_samples(name, step):
    """Where class 0 shall count three times as much, the term is as if its samples were there three times."""
    settings = {"dropout": 0.0} if name == "mdd" else {}
    weighed, plain = step(name, settings, source=8), step(name, settings, source=8)
    weighed.weigh([3.0, 1.0, 1.0, 1.0])
    index = torch.tensor([0, 0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7])
    plain.x, plain.labels = plain.x[index].detach().requires_grad_(), plain.labels[index]
    plain.domain = torch.zeros(12, dtype=torch.int64)
    assert term_of(weighed) == pytest.approx(term_of(plain), rel=1e-6)


@pytest.mark.parametrize("name", ["dan", "jan", "dsan", "deep_coral", "dann", "cdan", "mada"])
def test_equal_shares_weigh_nothing_and_others_do(name, step):
    values = []
    for shares in (None, [1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0]):
        one = step(name, source=9)
        one.labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 0])
        if shares:
            one.weigh(shares)
        values.append(term_of(one))
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    assert (values[2] == pytest.approx(values[0], rel=1e-6)) == (name == "dsan")  # which is even within a class


def test_class_shares_of_exact_posteriors():
    """Of two Gaussians a known distance apart the shares are found, where counting classes misses them."""
    rng = torch.Generator().manual_seed(0)
    n, wanted = 40000, 0.9
    is_first = torch.rand(n, generator=rng, dtype=torch.float64) < wanted
    x = torch.randn(n, generator=rng, dtype=torch.float64) + torch.where(is_first, 0.75, -0.75)
    first = 1 / (1 + torch.exp(-1.5 * x))
    probs = torch.stack([first, 1 - first], 1)
    shares = class_shares(probs, torch.tensor([0.5, 0.5], dtype=torch.float64), rounds=200)
    assert float(shares[0]) == pytest.approx(wanted, abs=0.01)
    assert abs(float((first > 0.5).double().mean()) - wanted) > 0.05
    absent = class_shares(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([0.5, 0.5, 0.0]))
    assert float(absent[2]) == 0


def test_bounds_of_the_prediction_matrix():
    sure = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 1, 2, 0, 1, 2])]
    assert float(nuclear_norm(sure, "min")) == pytest.approx(3 * math.sqrt(2) / 3)
    assert float(nuclear_norm(sure)) == pytest.approx(float(column_norms(sure)))
    assert float(nuclear_norm(sure, "sqrt")) == pytest.approx(math.sqrt(6) * math.sqrt(3) / 6 * math.sqrt(3))
    assert float(class_confusion(1e3 * sure)) == pytest.approx(0, abs=1e-12)
    assert float(class_confusion(torch.zeros(5, 4))) == pytest.approx(0.75)
    assert float(class_confusion(torch.zeros(5, 1))) == 0


def test_grouped_heads_are_heads_side_by_side():
    heads = GroupedDomainHeads(3, 4, 5)
    rows = torch.randn(6, 12)
    for k in range(3):
        hidden = rows[:, 4 * k : 4 * k + 4]
        for number in range(3):
            hidden = torch.relu(hidden) if number else hidden
            hidden = hidden @ heads.weights[number][k] + heads.biases[number][k]
        torch.testing.assert_close(heads(rows)[:, k], hidden[:, 0], rtol=1e-5, atol=1e-6)


def test_wide_products_are_projected(step, task):
    from fercore_uda.adversaries import CDAN, CdanSettings

    parts = CDAN("cdan", CdanSettings(random_dim=8, hidden=4)).parts(1025, task())
    assert {name: sum(p.numel() for p in part.parameters()) > 0 for name, part in parts.items()} == {
        "adversary": True,
        "adversary_map": False,
    }
    features, probs = torch.randn(3, 1025), torch.rand(3, 4).softmax(-1)
    project = parts["adversary_map"]
    wanted = (features @ project.of_features) * (probs @ project.of_classes) / math.sqrt(8)
    torch.testing.assert_close(project(features, probs), wanted)


WEIGHED = {"align": {"class_weights": "source_to_estimated"}}


@pytest.mark.parametrize("layer", [WEIGHED, {"align": {"class_weights": "oracle"}}])
def test_methods_that_do_not_weigh_refuse_to(layer):
    with pytest.raises(UserInputError, match=r"'daln' does not weigh source samples by class"):
        assemble(["daln"], [layer])  # a nuclear norm is of a whole matrix
    with pytest.raises(UserInputError, match=r"'dan' does not weigh"):
        assemble(["dan"], [layer, {"dan": {"estimator": "linear"}}])
    with pytest.raises(UserInputError, match=r"source_only has no term between domains"):
        assemble(["source_only"], [layer])
    assert assemble(["dan"], [layer]).config.align.class_weights == layer["align"]["class_weights"]


def test_presets():
    for name in METHODS:
        paper, demo = (assemble([name], [], preset=preset) for preset in ("paper", "demo"))
        assert paper.config.optim.name == "sgd"
        assert paper.config.data.source_batch == paper.config.data.target_batch
        assert paper.plugins[0].settings.bottleneck == {"afn": 1000, "mdd": 1024}.get(name, 256)
        assert demo.plugins[0].settings.bottleneck == 0
