"""Methods with a memory, with stages, and with more than one gradient a step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.losses import spherical_clusters
from fercore.records.plan import StepLoss
from fercore.records.step import EncodedDataset, Progress, Role


def unit(v):
    return v / v.norm()


def with_bank(step, labels):
    one = step("atdoc", {"labels": labels, "nearest": 2}, target=6)
    first = one.model(one.y.detach() + 0.5)
    index = torch.arange(6)
    whole = EncodedDataset(first.features, first.logits, torch.full((6,), -1), 0 * index, index)
    one.plugin.refresh(one.model, Progress("train", "main", 0, 0, 10), lambda side: {"target": whole}[side])
    return one, whole


def test_atdoc_neighbours(step, literal):
    one, whole = with_bank(step, "neighbours")
    kept = [unit(row) for row in whole.features["main"].detach()]
    p = literal.softmax(whole.logits["main"].detach())
    shares = [[p[i][k] ** 2 / sum(p[j][k] ** 2 for j in range(6)) for k in range(4)] for i in range(6)]
    total = weights = 0.0
    z = one.model(one.y).logits["main"]
    for i in range(6):
        others = sorted((j for j in range(6) if j != i), key=lambda j: -float(unit(one.y[i].detach()) @ kept[j]))
        mean = [(shares[others[0]][k] + shares[others[1]][k]) / 2 for k in range(4)]
        label = max(range(4), key=lambda k: mean[k])
        total = total + mean[label] * literal.cross_entropy(z[i : i + 1], [label])
        weights = weights + mean[label]
    terms = one.terms()
    torch.testing.assert_close(terms["pseudo_labels"].value, total / weights, rtol=1e-9, atol=1e-12)
    assert terms["pseudo_labels"].weight == pytest.approx(0.2 * 0.3)
    slopes = [
        torch.autograd.grad(v, [one.y], retain_graph=True)[0] for v in (terms["pseudo_labels"].value, total / weights)
    ]
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-10)
    bank = one.model.parts["atdoc/bank"]
    torch.testing.assert_close(bank.features[2].double(), unit(one.y[2].detach()), rtol=1e-6, atol=1e-6)


def test_atdoc_centres(step, literal):
    one, whole = with_bank(step, "centres")
    rows, z = whole.features["main"].detach(), whole.logits["main"].detach()
    centres = []
    for k in range(4):
        mine = [rows[i] for i in range(6) if int(z[i].argmax()) == k]
        centres.append(sum(mine) / len(mine) if mine else torch.zeros(5, dtype=torch.float64))
    own = one.model(one.y)
    labels = [
        max(range(4), key=lambda k: float(row @ centres[k] / max(float(centres[k].norm()), 1e-12)))
        for row in one.y.detach()
    ]
    terms = one.terms()
    wanted = literal.cross_entropy(own.logits["main"], labels)
    torch.testing.assert_close(terms["pseudo_labels"].value, wanted, rtol=1e-9, atol=1e-12)
    found = one.model.parts["atdoc/bank"].centres
    for k in range(4):
        mine = [one.y[i].detach() for i in range(6) if int(own.logits["main"][i].argmax()) == k]
        moved = 0.9 * centres[k] + 0.1 * sum(mine) / len(mine) if mine else centres[k]
        torch.testing.assert_close(found[k].double(), moved, rtol=1e-6, atol=1e-6)


def test_can_contrasts_classes_of_clusters(step, literal):
    """One class's kernel distance against those of others, each pair with a bandwidth of its own, on two layers."""
    one = step("can_cdd", target=8)
    clusters = [0, 0, 1, 1, 3, -1, 3, 0]
    one.model.parts["can_cdd/clusters"].put("labels", torch.tensor(clusters))
    term = one.terms()["contrast"]
    total = 0.0
    zx, zy = (one.model(rows).logits["main"] for rows in (one.x, one.y))
    for left, right in ((one.x, one.y), (literal.softmax(zx), literal.softmax(zy))):
        near, far = [], []
        for c in range(4):
            for k in range(4):
                x = [row for row, label in zip(left, one.labels.tolist(), strict=True) if label == c]
                y = [row for row, label in zip(right, clusters, strict=True) if label == k]
                if x and y:
                    s = literal.bandwidth([*x, *y])
                    kernel = lambda a, b, s=s: literal.mixture(a, b, s)  # noqa: E731
                    (near if c == k else far).append(literal.mmd(x, y, literal.even(x), literal.even(y), kernel))
        total = total + sum(near) / len(near) - sum(far) / len(far)
    torch.testing.assert_close(term.value, total, rtol=1e-9, atol=1e-11)
    assert term.weight == 0.3
    slopes = [torch.autograd.grad(value, [one.x, one.y], retain_graph=True) for value in (term.value, total)]
    for ours, wanted in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-7, atol=1e-9)
    one.model.parts["can_cdd/clusters"].put("labels", torch.full((8,), -1))
    assert float(one.terms()["contrast"].value.detach()) == 0


def test_clusters_begin_at_the_source_and_keep_what_is_empty():
    east, north, west = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    rows = torch.stack([east + 0.1 * north, 3 * east - 0.2 * north, north + 0.3 * east, 2 * north])
    labels, distance = spherical_clusters(rows, torch.stack([5 * east, north, west]), torch.tensor([0, 1, 2]), 4)
    assert labels.tolist() == [0, 0, 1, 1]
    centre = unit(unit(rows[0]) + unit(rows[1]))
    assert float(distance[0]) == pytest.approx(float(1 - unit(rows[0]) @ centre) / 2)
    lone, _ = spherical_clusters(rows, east[None], torch.tensor([2]), 4)
    assert lone.tolist() == [2, 2, 2, 2]


def test_can_draws_classes_in_turns(step):
    one = step("can_cdd", {"per_class": 2, "least": 2, "radius": 0.4}, source=9)
    encoded = one.model(one.x.detach())
    zero = torch.zeros(9, dtype=torch.int64)
    sides = {
        "source": EncodedDataset(encoded.features, encoded.logits, one.labels, zero, torch.arange(9)),
        "target": EncodedDataset(encoded.features, encoded.logits, torch.full((9,), -1), zero, torch.arange(9)),
    }
    found = one.plugin.refresh(one.model, one.clock, sides.__getitem__)
    clusters = one.model.parts["can_cdd/clusters"].labels
    counts = torch.bincount(clusters[clusters >= 0], minlength=4)
    assert found["can_cdd/clustered"] == float(counts.sum()) > 0
    assert not ((counts > 0) & (counts < 2)).any()
    dataset = type("Data", (), {"labels": one.labels.numpy()})
    for side, labels in (("source", one.labels), ("target", clusters)):
        drawn = list(itertools.islice(iter(one.plugin.build_sampler(one.model, dataset, side)), 40))
        classes = labels[drawn].tolist()
        assert all(classes[i] == classes[i + 1] for i in range(0, 40, 2))
        assert set(classes) == set(counts.nonzero().flatten().tolist())
    one.model.parts["can_cdd/clusters"].put("labels", torch.full((9,), -1))
    assert one.plugin.build_sampler(one.model, dataset, "source") is None


def test_adda_turns_the_labels_round(step):
    one = step("adda", {"hidden": 3})
    critic = one.model.parts["adda/adversary"]
    values = {}
    for phase in ("critic", "map"):
        one.clock = Progress("adapt", phase, 0, 1, 10)
        values[phase] = one.terms(target_view="adapted")
    told = lambda rows: 1 / (1 + torch.exp(-critic(rows)[:, 0]))  # noqa: E731
    critic_value = -(told(one.x).log().mean() + (1 - told(one.y)).log().mean()) / 2
    torch.testing.assert_close(values["critic"]["critic"].value, critic_value)
    torch.testing.assert_close(values["map"]["mapping"].value, -told(one.y).log().mean())
    assert torch.autograd.grad(values["map"]["mapping"].value, [one.y])[0].any()
    assert torch.autograd.grad(values["critic"]["critic"].value, [one.y], allow_unused=True) == (None,)


def test_adda_has_two_stages():
    resolved = assemble(["adda"], [{"train": {"steps": 100}, "adda": {"pretrain_share": 0.25}}])
    stages = resolved.plugins[0].plan(resolved.config)
    assert [(s.name, s.steps, [p.name for p in s.phases]) for s in stages] == [
        ("pretrain", 25, ["main"]),
        ("adapt", 75, ["critic", "map"]),
    ]
    short = assemble(["adda"], [{"train": {"steps": 1}}])
    with pytest.raises(UserInputError, match="two stages"):
        short.plugins[0].plan(short.config)


def test_the_source_keeps_its_encoder(step):
    from fercore_uda.evaluating import Kept

    encoder = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    kept = Kept(encoder)
    kept.train()
    assert not kept.network.training
    assert not any(p.requires_grad for p in kept.parameters())


def test_mcc_term_is_mcc(step):
    beside, alone = step("mcc_term"), step("mcc")
    beside.y = alone.y
    beside.model.heads["main"] = alone.model.heads["main"]
    assert float(beside.terms()["confusion"].value.detach()) == float(alone.terms()["confusion"].value.detach())


def test_sdat_steps_down_the_gradient_from_uphill(step):
    """A quadratic of two weights for the task, a line for the adversary: w+ = w + rho g / |g|, and g is of w alone."""
    sdat = step("sdat", {"rho": 0.5}).plugin
    net = nn.Module()
    net.w = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    net.parts = nn.ModuleDict({"dann/adversary": nn.Linear(1, 1, bias=False).double()})
    critic = net.parts["dann/adversary"].weight
    start = net.w.detach().clone()

    def closure(keep=None):
        net.zero_grad(set_to_none=True)
        terms = {Role.SUPERVISED: (net.w**2).sum() / 2, Role.ADVERSARIAL: (net.w**3).sum() * critic.sum()}
        kept = [v for role, v in terms.items() if keep is None or keep(type("T", (), {"role": role}))]
        sum(kept).backward()
        return StepLoss({"total": float(sum(kept).detach())}, True)

    found = sdat.backward(net, closure)
    moved = start + 0.5 * start / 5
    weight = float(critic.detach())
    torch.testing.assert_close(net.w.grad, moved + 3 * moved**2 * weight)
    torch.testing.assert_close(critic.grad, (moved**3).sum().reshape(1, 1))
    assert torch.equal(net.w.detach(), start)
    assert found.terms["total"] == pytest.approx(float((moved**2).sum() / 2 + (moved**3).sum() * weight))


def test_sdat_puts_the_weights_back_after_an_error(step):
    sdat = step("sdat").plugin
    net = nn.Module()
    net.w = nn.Parameter(torch.ones(2))
    calls = []

    def closure(keep=None):
        calls.append(keep)
        if keep is None:
            raise ValueError("the loss is not finite")
        net.w.sum().backward()
        return StepLoss({}, True)

    with pytest.raises(ValueError, match="not finite"):
        sdat.backward(net, closure)
    assert net.w.tolist() == [1, 1]
    assert len(calls) == 2
    assert math.isfinite(float(net.w.grad.sum()))
