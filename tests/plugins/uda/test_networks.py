"""Methods that build a network of their own: DSBN's normalisations and FixBi's two networks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fercore.hooks.discovery import installed_plugins, load_class
from fercore.models import DomainNorm, Model, normalised_as, split_norms
from fercore.records.step import Batch, DomainBatch, Progress


def net():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Model(backbone, {"main": nn.Identity()}, {"main": nn.Linear(4, 4)}, (0.0,) * 3, (1.0,) * 3).double()


def plugin(name, settings=None):
    cls = load_class(installed_plugins()[name])
    return cls(name, cls.Settings.model_validate(settings or {}))


def batch(source=6, target=5, domains=2):
    torch.manual_seed(1)
    sides = []
    for n, labels, domain in (
        (source, torch.arange(source) % 4, torch.arange(source) * domains // max(source, 1)),
        (target, torch.full((target,), -1), torch.zeros(target, dtype=torch.int64)),
    ):
        images = torch.randn(n, 3, 5, 5, dtype=torch.float64)
        sides.append(DomainBatch({"weak": images}, labels, domain, torch.arange(n)))
    return Batch(*sides)


def test_each_domain_has_its_own_statistics_and_weights():
    norm = nn.BatchNorm1d(3)
    nn.init.normal_(norm.weight)
    split = nn.Sequential(nn.Linear(3, 3), norm)
    split_norms(split, 3)
    layer = split[1]
    rows = torch.randn(6, 3)
    with normalised_as(split, 0):
        first = layer(rows)
    torch.testing.assert_close(first, F.batch_norm(rows, None, None, norm.weight, norm.bias, training=True))
    assert layer.domain == 2
    assert not torch.equal(layer.norms[0].running_mean, norm.running_mean)
    for other in (1, 2):
        assert torch.equal(layer.norms[other].running_mean, norm.running_mean)
    torch.testing.assert_close(
        layer(rows[:1]), F.batch_norm(rows[:1], norm.running_mean, norm.running_var, norm.weight)
    )
    assert layer.norms[2].training


def test_plain_weights_serve_every_domain():
    plain, split = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(3))
    nn.init.normal_(plain[0].weight)
    split_norms(split, 2)
    split.load_state_dict(plain.state_dict())
    for norm in split[0].norms:
        assert torch.equal(norm.weight, plain[0].weight)
    again = nn.Sequential(DomainNorm(nn.BatchNorm1d(3), 2))
    again.load_state_dict(split.state_dict())
    assert torch.equal(again[0].norms[1].weight, plain[0].weight)


def test_dsbn_normalises_each_source_by_itself():
    dsbn, model, given = plugin("dsbn"), net(), batch()
    split_norms(model.backbone, 3)
    found = dsbn.encode(model, given.source, "weak", "source").features["main"]
    halves = []
    for domain, images in enumerate(given.source.images["weak"].split(3)):
        with normalised_as(model, domain):
            halves.append(model.backbone(images))
    torch.testing.assert_close(found, torch.cat(halves))
    together = model(given.source.images["weak"]).features["main"]
    assert not torch.allclose(found, together)
    for side in ("target", None):
        torch.testing.assert_close(dsbn.encode(model, given.source, "weak", side).features["main"], together)


def fixbi(share, **settings):
    """Return FixBi with its networks, a batch, and the terms at a share of the run."""
    import copy

    method, model = plugin("fixbi", settings), net()
    peer = nn.ModuleList([copy.deepcopy(m) for m in (model.backbone, model.branches["main"], model.heads["main"])])
    with torch.no_grad():
        for p in peer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    method.attach(model, peer, "peer")
    scales = nn.ParameterList([torch.tensor(t, dtype=torch.float64) for t in (5.0, 4.0)])
    method.attach(model, scales, "temperatures")
    return method, model, Progress("train", "main", 0, int(1000 * share), 1000)


def literal_fixbi(model, given, late, deviations):
    """Na et al. 2021, Eqs 1-6, one sample at a time."""
    parts = model.parts
    nets = [lambda x: model(x).logits["main"], lambda x: parts["fixbi/peer"][2](parts["fixbi/peer"][0](x))]
    x, y, target = given.source.images["weak"], given.source.labels, given.target.images["weak"]
    n = min(len(x), len(target))
    z = [f(target) for f in nets]
    p = [each.softmax(1).detach() for each in z]
    guess, top = [each.argmax(1) for each in p], [each.amax(1) for each in p]
    level = [
        float(each.mean()) - deviations * math.sqrt(float(((each - each.mean()) ** 2).sum() / (len(each) - 1)))
        for each in top
    ]
    log = lambda rows, label: -rows.log_softmax(0)[label]  # noqa: E731
    mixed = 0.0
    for f, lam, labels in ((nets[0], 0.7, guess[0]), (nets[1], 0.3, guess[1])):
        out = f(lam * x[:n] + (1 - lam) * target[:n])
        mixed = mixed + sum(lam * log(out[i], y[i]) + (1 - lam) * log(out[i], labels[i]) for i in range(n)) / n
    if not late:
        penalty = 0.0
        for k, temperature in enumerate(parts["fixbi/temperatures"]):
            doubtful = [i for i in range(len(target)) if top[k][i] < level[k]]
            values = [-(1 - (z[k][i] / temperature).softmax(0)[guess[k][i]]).log() for i in doubtful]
            penalty = penalty + (sum(values) / len(values) if values else 0.0)
        return {"mixed": mixed, "penalty": penalty}
    matching = 0.0
    for k in (0, 1):
        sure = [i for i in range(len(target)) if top[1 - k][i] >= level[1 - k]]
        matching = matching + sum(log(z[k][i], guess[1 - k][i]) for i in sure) / len(sure)
    half = (x[:n] + target[:n]) / 2
    difference = nets[0](half) - nets[1](half)
    return {"mixed": mixed, "matching": matching, "agreement": (difference**2).sum() / difference.numel()}


@pytest.mark.parametrize(("share", "deviations"), [(0.2, 0.5), (0.8, 2.0)])
def test_fixbi_is_its_equations(share, deviations):
    method, model, clock = fixbi(share, deviations=deviations)
    given = batch(source=7, target=6)
    model.eval()  # batch statistics aside: the literal form runs networks in another order
    encoded = {("target", "weak"): method.encode(model, given.target, "weak")}
    encoded["source", "weak"] = method.encode(model, given.source, "weak")
    terms = {term.name.partition("/")[2]: term.value for term in method.loss(model, given, encoded, clock)}
    wanted = literal_fixbi(model, given, share > 0.5, deviations)
    assert terms.keys() == wanted.keys()
    leaves = [p for p in model.parameters() if p.requires_grad]
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-9, atol=1e-12)
        slopes = [torch.autograd.grad(v, leaves, allow_unused=True, retain_graph=True) for v in (terms[name], value)]
        for ours, theirs in zip(*slopes, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(("source", "target"), [(4, 1), (1, 4), (1, 1), (4, 0)])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_fixbi_with_few_samples(source, target, share):
    method, model, clock = fixbi(share)
    given = batch(source=source, target=target, domains=1)
    model.eval()
    encoded = {(s, "weak"): method.encode(model, given.side(s), "weak") for s in ("source", "target")}
    total = sum(term.value for term in method.loss(model, given, encoded, clock))
    total.backward()
    assert math.isfinite(float(total.detach()))
