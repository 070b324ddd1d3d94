"""Steady: every term to its equation in float64, the network's two views, its statistics, its ablations."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fercore_steady.network import MapOf, Quarters
from fercore_steady.settings import SteadySettings
from fercore_steady.trust import Confidences, target_shares

from fercore.engine.run import run
from fercore.models import ClassShares, PseudoLabelRecord, Teacher
from fercore.plugin import Batch, DomainBatch, Encoded, Progress, PseudoLabels
from tests.plugins.steady import literal

SOURCE, WEAK, STRONG = ("source", "weak"), ("target", "weak"), ("target", "strong")
B, M, K = 9, 7, 4
DECAY = {"steady": "teacher", "mean_teacher": "decay"}


def side(n, rng, *, labelled):
    labels = torch.from_numpy(rng.integers(0, K, n)) if labelled else torch.full((n,), -1)
    return DomainBatch({}, labels, torch.zeros(n, dtype=torch.int64), torch.arange(n), {}, (n,))


def step(plugin, model, *, seed=0, clock=None, views=("main", "parts")):
    """Return a step's terms by name, and the logits in float64 that they are of."""
    rng = np.random.default_rng(seed)
    drawn = {key: {v: rng.normal(0, 2, (n, K)) for v in views} for key, n in ((SOURCE, B), (WEAK, M), (STRONG, M))}
    encoded = {
        key: Encoded(
            {v: torch.zeros(len(z), 1) for v, z in of.items()}, {v: torch.from_numpy(z) for v, z in of.items()}
        )
        for key, of in drawn.items()
    }
    batch = Batch(side(B, rng, labelled=True), side(M, rng, labelled=False))
    labels, weight = rng.integers(0, K, M), rng.random(M)
    pseudo = PseudoLabels(torch.from_numpy(labels), torch.from_numpy(weight), torch.zeros(M, K))
    clock = clock or Progress("train", "main", 0, 9, 10)
    terms = plugin.loss(model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)
    return {term.name: term for term in terms}, drawn, batch.source.labels.tolist(), labels, weight


@pytest.fixture
def made(make_context):
    def make(**settings):
        data = {"classes": ["anger", "disgust", "fear", "happiness"], "size": 64}
        context = make_context("steady", layers=({"steady": settings, "data": data},))
        (plugin,) = context.resolved.plugins
        return plugin, context.model, context

    return make


def test_the_terms_are_their_equations(made):
    plugin, model, _ = made(warm_up=0.0)
    shares = model.parts["steady/shares"]
    q = torch.tensor([0.5, 0.25, 0.15, 0.1])
    shares.target.copy_(q)
    terms, z, labels, guessed, weight = step(plugin, model)

    def mean(function):
        return sum(function(view) for view in ("main", "parts")) / 2

    want = {
        "cross_entropy": mean(lambda v: literal.cross_entropy(z[SOURCE][v], labels)),
        "entropy": mean(lambda v: literal.entropy(z[WEAK][v])),
        "diversity": mean(lambda v: literal.divergence(z[WEAK][v], q.tolist())),
        "confusion": mean(lambda v: literal.confusion(z[WEAK][v], 2.5)),
        "agreement": literal.agreement(z[WEAK]["main"], z[WEAK]["parts"]),
        "consistency": mean(lambda v: literal.cross_entropy(z[STRONG][v], guessed, weight)),
    }
    assert set(terms) == {f"steady/{name}" for name in want}
    for name, value in want.items():
        assert float(terms[f"steady/{name}"].value) == pytest.approx(value, rel=1e-6), name
    weights = {name: terms[f"steady/{name}"].weight for name in want}
    assert weights == {"cross_entropy": 1, "entropy": 0.5, "diversity": 0.5, "confusion": 0.5, "agreement": 0.5,
                       "consistency": 1}  # fmt: skip


@pytest.mark.parametrize("trust", ["adaptive", "soft", "fixed"])
def test_what_a_label_counts_over_many_batches(trust):
    settings = SteadySettings(trust=trust, momentum=0.8, threshold=0.6)
    ours, theirs = Confidences(K).double(), literal.Confidences(K)
    rng = np.random.default_rng(1)
    for number in range(30):
        # Regimes: anything, nearly one class, all alike, one sample.
        sharp = (0.5, 6.0, 0.0, 2.0)[number % 4]
        z = rng.normal(0, 1 + sharp, (1 if number % 7 == 6 else M, K)) + np.array([sharp, 0, 0, 0])
        p = literal.softmax(z)
        found = ours.weigh(torch.from_numpy(p), settings)
        assert found.tolist() == pytest.approx(theirs.weigh(p, 0.8, trust, 0.6), abs=1e-9)
    assert ours.variance.tolist() == pytest.approx(theirs.variance, rel=1e-9)


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_the_class_shares(trust):
    rng = np.random.default_rng(2)
    p, source = literal.softmax(rng.normal(0, 2, (40, K)) + np.array([1, 0, 0, -1])), np.array([0.4, 0.3, 0.2, 0.1])
    found = target_shares(torch.from_numpy(p), torch.from_numpy(source), trust)
    assert found.tolist() == pytest.approx(literal.shares(p, source, trust), rel=1e-9)
    assert float(found.sum()) == pytest.approx(1)


def test_the_terms_of_the_target_rise(made):
    plugin, model, _ = made(warm_up=0.5)
    for at, share in ((0, 0.0), (2, 0.4), (5, 1.0), (9, 1.0)):
        terms, *_ = step(plugin, model, clock=Progress("train", "main", 0, at, 10))
        assert terms["steady/cross_entropy"].weight == 1
        assert terms["steady/consistency"].weight == pytest.approx(share)
        assert terms["steady/confusion"].weight == pytest.approx(share / 2)


@pytest.mark.parametrize("name", ["agreement", "entropy", "diversity", "confusion", "consistency"])
def test_a_weight_of_nothing_leaves_a_part_out(made, name):
    plugin, model, context = made(**{name: 0.0})
    terms, *_ = step(plugin, model)
    assert f"steady/{name}" not in terms
    assert len(terms) == 5
    assert ("strong" in {view.name for view in context.views}) is (name != "consistency")


def statistics(model):
    return torch.cat([b.flatten() for name, b in model.named_buffers() if name.endswith("running_mean")])


@pytest.mark.slow
def test_without_its_terms_it_is_source_only_with_the_statistics_of_the_target(make_context, tmp_path, listener):
    off = {**dict.fromkeys(("entropy", "diversity", "confusion", "consistency", "teacher"), 0), "views": "one"}
    found = {}
    for name, layer in (("source_only", {}), ("steady", {"steady": off})):
        train = {"steps": 2, "ema": None} if name == "source_only" else {"steps": 2}
        context = make_context(name, layers=({"train": train, "data": {"class_balanced": True}}, layer))
        heard = listener()
        run(context, tmp_path / name, heard)
        found[name] = [list(report.terms.values()) for report in heard.reports], statistics(context.model)
    assert found["steady"][0][0] == pytest.approx(found["source_only"][0][0], rel=1e-5)
    assert not torch.allclose(found["steady"][1], found["source_only"][1])


@pytest.mark.parametrize(("prior", "want"), [("uniform", [0.25] * 4), ("source", [0.1, 0.2, 0.3, 0.4])])
def test_the_other_priors(made, prior, want):
    plugin, model, _ = made(prior=prior)
    shares = model.parts["steady/shares"]
    shares.source.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    shares.target.copy_(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    terms, z, *_ = step(plugin, model)
    value = sum(literal.divergence(z[WEAK][v], want) for v in ("main", "parts")) / 2
    assert float(terms["steady/diversity"].value) == pytest.approx(value, rel=1e-5)


def test_two_views_are_the_pooled_map_and_its_quarters(made):
    _, model, context = made()
    assert isinstance(model.backbone, MapOf)
    assert list(model.heads) == ["main", "parts"]
    model.eval()
    images = torch.randn(2, 3, context.config.data.size, context.config.data.size)
    with torch.no_grad():
        features = model(images).features
        assert torch.allclose(features["main"], model.backbone.module(images), atol=1e-5)
    assert features["parts"].shape[1] == 4 * features["main"].shape[1]


def test_quarters_of_an_odd_map_share_its_middle():
    mapped = torch.arange(9.0).view(1, 1, 3, 3)
    assert Quarters()(mapped).tolist() == [[2.0, 3.0, 5.0, 6.0]]


def test_a_map_of_one_cell_gives_one_view_with_a_line(make_context, caplog):
    context = make_context("steady", layers=({"data": {"size": 32}},))
    assert list(context.model.heads) == ["main"]
    assert "one view" in caplog.text


@pytest.mark.parametrize("kept", ["target", "both"])
def test_whose_statistics_are_kept(made, kept):
    plugin, _, _ = made(statistics=kept)
    moves = {(view.side, view.name): view.batch_statistics for view in plugin.request_views()}
    assert moves == {("source", "weak"): kept == "both", ("target", "weak"): True, ("target", "strong"): False}


@pytest.mark.slow
def test_a_run_estimates_the_shares_of_what_it_has_seen(make_context, tmp_path, listener):
    layer = {"steady": {"prior_every": 2, "prior_trust": 1.0}, "train": {"steps": 4, "steps_per_epoch": 4}}
    context = make_context("steady", layers=(layer,))
    result = run(context, tmp_path / "run", listener())
    record, shares = context.model.parts["steady/record"], context.model.parts["steady/shares"]
    assert isinstance(record, PseudoLabelRecord)
    assert isinstance(shares, ClassShares)
    assert not torch.equal(shares.target, shares.source)
    assert float(shares.target.sum()) == pytest.approx(1, abs=1e-5)
    assert result.pseudo_labels["steady/record"].n == len(context.domains.adaptation)


@pytest.mark.parametrize("name", ["steady", "mean_teacher"])
def test_a_teacher_follows_a_network_in_any_memory_format(name, make_context, tmp_path, listener):
    layer = {"train": {"steps": 2, "memory_format": "channels_last", "ema": None}, name: {DECAY[name]: 0.5}}
    context = make_context(name, layers=(layer,))
    run(context, tmp_path / "run", listener())
    (teacher,) = (part for part in context.model.parts.values() if isinstance(part, Teacher))
    kept = teacher.parameters_of(context.model)
    for key, weights in context.model.named_parameters():
        assert kept[key].shape == weights.shape
        # One step behind at most: the teacher began as the network after its first step, or before it.
        assert float((kept[key] - weights).detach().abs().max()) < 0.1


@pytest.mark.slow
def test_it_starts_from_a_source_model_with_its_head(tiny, tmp_path, make_context, listener):
    run(make_context("source_only", layers=({"train": {"steps": 2}},)), tmp_path / "source", listener())
    context = make_context("steady", layers=({"model": {"init": str(tmp_path / "source")}},))
    assert context.kept_heads == ("main",)


def test_every_setting_is_in_the_readme():
    text = (Path(__file__).parents[3] / "plugins/steady/README.md").read_text(encoding="utf-8")
    known = set(re.findall(r"`([a-z_]+)", text))
    assert set(SteadySettings.model_fields) <= known
    assert math.isclose(SteadySettings().prior_trust, 0.5)
