"""AGA (Eqs 1-3) against brute force on random codes: every scheme, conflict rule and way of matching."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from fercore_adafer.epoch import annotate


def matches(world, radius=0, nearest=False):
    """For each target image the source images whose codes match, image by image."""
    found = []
    for code in world.codes["target"]:
        apart = [(code != other).sum() for other in world.codes["source"]]
        own = [i for i, d in enumerate(apart) if d <= radius]
        if not own and nearest:
            own = [i for i, d in enumerate(apart) if d == min(apart)]
        found.append(own)
    return found


WAYS = [
    ({}, {}),
    ({"match": "hamming<=1"}, {"radius": 1}),
    ({"unmatched": "nearest"}, {"nearest": True}),
    ({"match": "hamming<=1", "unmatched": "nearest"}, {"radius": 1, "nearest": True}),
]


@pytest.mark.parametrize(("aga", "rule"), WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_t_soft_and_t_hard(world, epoch, aga, rule, seed):
    scene = world(units=7, seed=seed)
    _, state, counts = epoch(scene, aga=aga, agt={"on": False})
    found = matches(scene, **rule)
    assert counts["coverage"] == pytest.approx(np.mean([bool(own) for own in found]))
    assert state.matched.tolist() == [bool(own) for own in found]
    for own, q, hard in zip(found, state.q, state.t_hard, strict=True):
        votes = Counter(scene.labels[own].tolist())
        literal = [votes[k] / max(1, len(own)) for k in range(3)]
        np.testing.assert_allclose(q.numpy(), literal, atol=1e-7)
        assert hard == (max(votes, key=lambda k: (votes[k], -k)) if own else -1)


@pytest.mark.slow
@pytest.mark.parametrize(("aga", "rule"), WAYS)
def test_s_hard_by_every_rule(world, epoch, aga, rule):
    scene = world(units=7, seed=5)
    found = matches(scene, **rule)
    last = epoch(scene, aga=aga, s_hard={"conflict": "last"})[1]
    assert last.s_hard.tolist() == [scene.labels[own[-1]] if own else -1 for own in found]
    most = epoch(scene, aga=aga, s_hard={"conflict": "majority"})[1]
    assert torch.equal(most.s_hard, most.t_hard)
    drawn = [epoch(scene, seed=s, aga=aga, s_hard={"conflict": "random"})[1].s_hard.tolist() for s in range(40)]
    for i, own in enumerate(found):
        assert {labels[i] for labels in drawn} == ({*scene.labels[own].tolist()} if own else {-1})


def test_a_random_match_is_drawn_by_image_not_by_class(world, epoch):
    codes = {"source": np.ones((10, 2), dtype=int), "target": np.array([[1, 1]] * 400 + [[0, 0]])}
    scene = world(codes=codes)
    scene.labels = np.array([0] * 9 + [1])
    _, state, _ = epoch(scene, s_hard={"conflict": "random"})
    share = (state.s_hard[:400] == 1).double().mean().item()
    assert 0.05 < share < 0.16
    assert state.s_hard[400] == -1


def test_what_is_drawn_anew_each_epoch(world, epoch):
    scene = world()
    for conflict, again in (("pair", True), ("random", False), ("majority", False), ("last", False)):
        plugin, state, _ = epoch(scene, s_hard={"conflict": conflict})
        before = state.s_hard.clone(), state.q.clone()
        torch.manual_seed(99)
        annotate(state, plugin.settings)
        assert torch.equal(before[0], state.s_hard) is not again, conflict
        assert torch.equal(before[1], state.q)


def test_no_match_at_all_warns_once(world, epoch, step, caplog):
    codes = {"source": np.array([[1, 0]] * 20), "target": np.array([[0, 1]] * 12 + [[1, 1]] * 8)}
    scene = world(codes=codes)
    plugin, state, counts = epoch(scene)
    annotate(state, plugin.settings)
    assert counts["coverage"] == 0
    assert sum("no pseudo label" in record.message for record in caplog.records) == 1
    everyone = {"source": torch.arange(12), "target": torch.arange(12)}
    now = step(scene, plugin, state, at=everyone)
    terms = now.terms()
    assert set(terms) == {"supervised", "s_hard", "t_soft"}
    assert terms["s_hard"].value.item() == terms["t_soft"].value.item() == 0
    sum(term.value for term in terms.values()).backward()
    assert (now.leaves["z", "target"].grad == 0).all()
    assert now.leaves["z", "source"].grad.abs().sum() > 0
