"""Refresh, thresholds, trusted shares and the order they give; every edge case warns once and goes on."""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fercore_pocan.modules import NEVER, Encoder, RunState
from fercore_pocan.sampling import TrustSampler, split_batch
from torch import nn

from fercore.config import RunConfig
from fercore.models import Backbone
from fercore.plugin import BatchPolicy, DatasetInfo, TaskInfo
from fercore.records.step import Batch, DomainBatch, Encoded, EncodedDataset, Progress

TASK = TaskInfo(
    classes=("anger", "fear", "neutral"),
    sources=(DatasetInfo("folder", "folder", 2, {"anger": 2}), DatasetInfo("folder", "folder", 1, {"neutral": 1})),
    target=DatasetInfo("folder", "folder", 6),
    few_shot_domain=None,
    few_shots=None,
    include_labelled=False,
    batch=BatchPolicy(source=2, target=2, steps_per_epoch=None, class_balanced=False, domain_balanced=False),
)
ADAPT = Progress("adapt", "", 0, 0, 10)


def probs(*rows):
    return torch.tensor(rows, dtype=torch.float64)


MIXED = probs([0.9, 0.05, 0.05], [0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.2, 0.2, 0.6])


def test_thresholds_trust_and_counts_are_the_papers(paper):
    state = RunState(3)
    state.relabel(MIXED, 2.0)
    confidence, predicted = MIXED.max(1).values.numpy(), MIXED.argmax(1).numpy()
    expected = paper.eq14(confidence, predicted, 3, 2.0)
    np.testing.assert_allclose(state.thresholds, expected)
    trusted = [q >= expected[k] for q, k in zip(confidence, predicted, strict=True)]
    assert state.trusted.tolist() == trusted == [True, False, False, True, False, True]
    assert state.target_counts.tolist() == [1, 1, 1]


def test_eq_13_counts_trusted_pseudo_labels_or_all(method):
    data = {"target": whole(-torch.ones(6), MIXED.log())}
    for settings, expected in (
        ({}, [1, 1, 1]),
        ({"variant": "official"}, [3, 1, 2]),
        ({"class_counts": "all"}, [3, 1, 2]),
    ):
        state = RunState(3)
        method(**settings).refresh(model=model_of(state), clock=ADAPT, encode_dataset=data.get, task=TASK)
        assert state.target_counts.tolist() == expected
        assert state.trusted.sum() == 3


def test_a_class_never_predicted_trusts_nobody_and_is_said_once(caplog):
    state = RunState(4)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            state.relabel(torch.cat([MIXED, torch.zeros(6, 1, dtype=torch.float64)], 1), 2.0)
    assert state.thresholds[3] == NEVER
    assert state.target_counts[3] == 0
    assert [record.message for record in caplog.records] == [
        "no target sample is labelled as class number(s) 3: no threshold, no trusted sample for them"
    ]


def test_a_class_predicted_once_is_trusted():
    state = RunState(3)
    state.relabel(MIXED, 2.0)
    assert state.thresholds[1] == 0.8
    assert state.trusted[3]


def test_all_trusted_is_said_once(caplog):
    state = RunState(3)
    with caplog.at_level(logging.WARNING):
        state.relabel(torch.eye(3).repeat(2, 1), 2.0)
        state.relabel(torch.eye(3).repeat(2, 1), 2.0)
    assert state.trusted.all()
    assert [record.message for record in caplog.records] == [
        "every target sample is trusted: batches have no untrusted part"
    ]


def test_no_trusted_sample_is_said_once(caplog):
    state = RunState(3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            state.relabel(torch.full((4, 3), float("nan")), 2.0)
    assert not state.trusted.any()
    assert sum("no target sample is trusted" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    ("batch", "trusted", "samples", "expected"),
    [
        (64, 500, 1000, (32, 32)),
        (64, 333, 1000, (21, 43)),
        (64, 1, 1000, (1, 63)),
        (64, 0, 1000, (0, 64)),
        (64, 1000, 1000, (64, 0)),
        (64, 999, 1000, (63, 1)),
        (64, 0, 0, (0, 64)),
    ],
)
def test_a_batch_is_split_in_proportion(batch, trusted, samples, expected):
    assert split_batch(batch, trusted, samples) == expected


@pytest.mark.parametrize("count", [0, 1, 5, 13, 29, 30], ids=lambda n: f"{n} of 30 trusted")
def test_every_batch_of_the_sampler_holds_both_parts(count):
    trusted = torch.zeros(30, dtype=torch.bool)
    trusted[torch.randperm(30)[:count]] = True
    order = iter(TrustSampler(trusted, 10))
    drawn = torch.tensor([next(order) for _ in range(100)]).view(10, 10)
    share, rest = split_batch(10, count, 30)
    assert (trusted[drawn].sum(1) == share).all()
    for members, n in ((trusted, share), (~trusted, rest)):
        seen = drawn.flatten()[members[drawn.flatten()]]
        assert all(len(set(row)) == n for row in seen.view(10, n).tolist())  # none twice in a batch
        if n:
            rounds = members.sum() // n
            assert len(set(seen[: rounds * n].tolist())) == rounds * n


def test_a_batch_larger_than_the_target_repeats_samples():
    trusted = torch.tensor([True, False] * 5)
    order = iter(TrustSampler(trusted, 32))
    drawn = torch.tensor([next(order) for _ in range(3 * 32)]).view(3, 32)
    assert (trusted[drawn].sum(1) == 16).all()
    for batch in drawn:
        times = torch.bincount(batch, minlength=10)
        assert times.min() >= 3  # 16 draws from 5 members
        assert times.max() <= 4


def test_the_sampler_draws_from_the_global_generator():
    trusted = torch.arange(20) < 8
    orders = []
    for _ in range(2):
        torch.manual_seed(5)
        order = iter(TrustSampler(trusted, 5))
        orders.append([next(order) for _ in range(40)])
    assert orders[0] == orders[1]


def model_of(state, heads=None):
    heads = heads or nn.ModuleDict({side: nn.Linear(2, 3, bias=False) for side in ("source", "target")})
    return SimpleNamespace(parts={"pocan/state": state}, heads=heads)


def whole(labels, logits):
    return EncodedDataset({}, {"target": logits}, labels, torch.zeros_like(labels), torch.arange(len(labels)))


def test_refresh_starts_the_target_prototypes_and_labels_again_each_epoch(method):
    plugin, state = method(refresh_every=2), RunState(3)
    model = model_of(state)
    data = {"target": whole(-torch.ones(6), MIXED.log())}
    asked = []

    def encode_dataset(side):
        asked.append(side)
        return data[side]

    refresh = partial(plugin.refresh, model=model, encode_dataset=encode_dataset, task=TASK)
    assert refresh(clock=Progress("pretrain", "", 0, 0, 9)) is None
    assert refresh(clock=Progress("prototypes", "", 0, 0, 9)) is None
    assert asked == []
    assert not state.adapted
    metrics = refresh(clock=ADAPT)
    assert asked == ["target"]
    assert state.adapted
    assert state.source_counts.tolist() == [2, 0, 1]
    assert torch.equal(model.heads["target"].weight, model.heads["source"].weight)
    assert metrics["pocan/trusted_share"] == 0.5
    model.heads["target"].weight.data.zero_()
    later = Progress("adapt", "", 1, 4, 10)
    assert refresh(clock=later) is None
    assert (model.heads["target"].weight == 0).all()
    assert state.progress == pytest.approx(0.4)
    refresh(clock=Progress("adapt", "", 2, 8, 10))
    assert asked == ["target", "target"]


def test_pseudo_labels_follow_the_samples(method):
    plugin, state = method(), RunState(3)
    state.relabel(MIXED, 2.0)
    at = torch.tensor([4, 0, 3])
    side = DomainBatch({}, -torch.ones(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), at)
    pseudo = plugin.pseudo_label(model=model_of(state), batch=Batch(side, side), clock=ADAPT)
    assert pseudo.labels.tolist() == [2, 0, 1]
    assert pseudo.weight.tolist() == [0.0, 1.0, 1.0]
    assert torch.equal(pseudo.probs, MIXED[at])
    assert (
        plugin.pseudo_label(model=model_of(state), batch=Batch(side, side), clock=Progress("pretrain", "", 0, 0, 1))
        is None
    )


def test_a_share_that_rounds_to_none_becomes_one_and_is_said_once(method, caplog):
    plugin, state = method(), RunState(3)
    state.trusted = torch.arange(200) < 1
    config = RunConfig.model_validate({"data": {"target_batch": 8}})
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            sampler = plugin.build_sampler(config=config, model=model_of(state), side="target", clock=ADAPT)
    first = iter(sampler)
    assert sum(bool(state.trusted[next(first)]) for _ in range(8)) == 1
    assert [record.message for record in caplog.records] == [
        "1 of 200 target samples are trusted: a batch holds one of them instead of none"
    ]
    assert plugin.build_sampler(config=config, model=model_of(state), side="source", clock=ADAPT) is None


def test_prediction_is_the_sources_until_adaptation_begins(method):
    plugin, state = method(), RunState(3)
    encoded = Encoded({}, {"source": MIXED.log(), "target": MIXED.flip(1).log()})
    torch.testing.assert_close(plugin.predict(model=model_of(state), encoded=encoded), MIXED)
    state.adapted.fill_(True)
    torch.testing.assert_close(plugin.predict(model=model_of(state), encoded=encoded), MIXED.flip(1))


def test_confidences_of_huge_scores_stay_finite(method):
    plugin, state = method(), RunState(3)
    logits = torch.tensor([[1e4, 0.0, -1e4], [-3e4, 2e4, 0.0], [0.0, 0.0, 5e4]])
    data = {"source": whole(torch.tensor([0]), logits), "target": whole(-torch.ones(3), logits)}
    plugin.refresh(model=model_of(state), clock=ADAPT, encode_dataset=data.get, task=TASK)
    assert torch.equal(state.probs, torch.eye(3))
    assert state.trusted.all()


def test_saved_pseudo_labels_find_room_in_a_fresh_state():
    state, fresh = RunState(3), RunState(3)
    state.relabel(MIXED.float(), 2.0)
    fresh.load_state_dict(state.state_dict())
    for name, buffer in state.named_buffers():
        assert torch.equal(buffer, dict(fresh.named_buffers())[name])


def test_embeddings_have_length_one_and_survive_dead_features():
    trunk = Backbone(nn.Flatten(), 12, 0, (0.5,) * 3, (0.5,) * 3)
    encoder = Encoder(trunk, 1, None, 5)
    images = torch.randn(4, 3, 2, 2)
    images[0] = 0.0
    z = encoder(images)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    z.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
    assert encoder.projection[0].bias is not None
    assert encoder.projection[3].bias is None


def test_a_map_is_seen_cell_by_cell():
    trunk = Backbone(nn.Identity(), 3, 8, (0.5,) * 3, (0.5,) * 3)
    encoder = Encoder(trunk, 2, 7, 5)
    assert encoder.projection[0].in_features == 12
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert encoder.cells(image)[0, :4].tolist() == [2.5, 4.5, 10.5, 12.5]
