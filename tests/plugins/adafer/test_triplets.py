"""AGT: every triplet obeys its rule, stands where the step looks for it, and is drawn as the settings say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fercore_adafer.batches import Layout, Order, balance, draw, triplets_a_step
from fercore_adafer.epoch import fresh_epoch

from fercore.records.task import BatchPolicy

POLICY = BatchPolicy(12, 12, None, class_balanced=False, domain_balanced=False)


def similarity(a, b, kind):
    if kind == "cosine":
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return 1 - float(np.abs(a - b).mean())


def check(scene, side, other, rows, tau, kind):
    for a, p, n in rows.T.tolist():
        code = scene.codes[side][a]
        assert (code == scene.codes[other][p]).all()
        assert (code != scene.codes[other][n]).any()
        near = [
            similarity(scene.scores[side][a], scene.scores[other][j], kind)
            for j in range(len(scene.codes[other]))
            if (code != scene.codes[other][j]).any()
        ]
        own = similarity(scene.scores[side][a], scene.scores[other][n], kind)
        assert own > tau - 1e-6 or own == pytest.approx(max(near), abs=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "one_minus_l1"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.95])
def test_every_triplet_obeys_its_rule(world, epoch, kind, tau):
    scene = world(seed=2, units=6)
    _, state, counts = epoch(scene, agt={"sim": kind, "tau_n": tau})
    check(scene, "source", "target", state.triplets_source, tau, kind)
    check(scene, "target", "source", state.triplets_target, tau, kind)
    for side, other in (("source", "target"), ("target", "source")):
        held = {tuple(code) for code in scene.codes[other].tolist()}
        anchors = [i for i, code in enumerate(scene.codes[side].tolist()) if tuple(code) in held]
        assert getattr(state, f"triplets_{side}")[0].tolist() == anchors  # a code of one domain only: no anchor
        assert counts[f"{side}_triplets"] == len(anchors)
        assert counts[f"{side}_without_positive"] == len(scene.codes[side]) - len(anchors)


@pytest.mark.parametrize("anchors", ["source", "target", "both"])
@pytest.mark.parametrize("batch", [(12, 12), (13, 11), (3, 3), (7, 20)])
def test_batches_hold_the_triplets_where_the_step_looks(world, epoch, step, anchors, batch):
    scene = world(seed=3)
    plugin, state, _ = epoch(scene, batch, agt={"anchors": anchors})
    a, b = state.shares
    assert (a, b) == triplets_a_step(*batch, anchors)
    assert a + b > 0
    mined = {side: {tuple(t) for t in getattr(state, f"triplets_{side}").T.tolist()} for side in ("source", "target")}
    steps = len(state.order_source) // batch[0]
    assert len(state.order_target) == steps * batch[1]
    layout = Layout(a, b)
    for number in range(steps):
        at = step(scene, plugin, state, number).at
        x, p, n = layout.source_anchored()
        rows = zip(at["source"][x].tolist(), at["target"][p].tolist(), at["target"][n].tolist(), strict=True)
        assert set(rows) <= mined["source"]
        x, p, n = layout.target_anchored()
        rows = zip(at["target"][x].tolist(), at["source"][p].tolist(), at["source"][n].tolist(), strict=True)
        assert set(rows) <= mined["target"]


def test_both_sides_of_a_step_hold_as_many_triplets_as_fit():
    assert triplets_a_step(192, 192, "both") == (64, 64)  # the paper's 128 triplets, 384 images
    assert triplets_a_step(48, 48, "source") == (24, 0)
    assert triplets_a_step(48, 48, "target") == (0, 24)
    assert triplets_a_step(2, 2, "both") == (0, 0)


def test_once_keeps_the_triplets_and_epoch_draws_new_ones(world, epoch):
    scene = world(seed=4)
    for resample, kept in (("once", True), ("epoch", False)):
        plugin, state, _ = epoch(scene, agt={"resample": resample})
        before = state.triplets_source.clone(), state.order_source.clone()
        fresh_epoch(state, plugin.settings, POLICY)
        assert torch.equal(before[0], state.triplets_source) is kept
        assert not torch.equal(before[1], state.order_source)


def test_draws_follow_the_seed_alone(world, epoch):
    scene = world()
    first, again, other = (epoch(scene, seed=s)[1] for s in (1, 1, 2))
    assert torch.equal(first.order_target, again.order_target)
    assert not torch.equal(first.order_target, other.order_target)


def test_fewer_triplets_than_a_batch_come_again(world, epoch):
    codes = {"source": np.array([[1, 0]] * 2 + [[0, 1]] * 2), "target": np.array([[1, 0], [0, 1]])}
    _, state, _ = epoch(world(codes=codes), batch=(30, 30))
    assert state.shares == (10, 10)
    assert len(state.order_source) == 30
    assert set(state.order_target.tolist()) == {0, 1}


@pytest.mark.parametrize("anchors", ["source", "target", "both"])
def test_an_epoch_draws_every_triplet(world, epoch, anchors):
    _, state, _ = epoch(world(sizes=(41, 29)), batch=(9, 9), agt={"anchors": anchors})
    (a, b), (n, m) = state.shares, (state.triplets_source.shape[1], state.triplets_target.shape[1])
    steps = max(-(-n // a) if a else 0, -(-m // b) if b else 0)
    assert len(state.order_source) == len(state.order_target) == 9 * steps
    source, target = state.order_source.view(steps, 9), state.order_target.view(steps, 9)
    for rows, triplets in (
        (source[:, :a], state.triplets_source),
        (target[:, 2 * a : 2 * a + b], state.triplets_target),
    ):
        drawn = rows.flatten().tolist()
        assert set(drawn) == set(triplets[0].tolist())
        assert len(drawn) < 3 * len(set(drawn)) or not drawn
    longer = source[:, :a] if a and -(-n // a) == steps else target[:, 2 * a : 2 * a + b]
    assert len(longer.flatten()) - len(longer.unique()) < longer.shape[1]


def test_one_code_for_all_leaves_the_triplets_out_and_warns_once(world, epoch, step, caplog):
    codes = {"source": np.ones((20, 3), dtype=int), "target": np.ones((15, 3), dtype=int)}
    scene = world(codes=codes)
    plugin, state, counts = epoch(scene)
    fresh_epoch(state, plugin.settings, POLICY)
    assert counts["source_without_negative"] == 20
    assert state.shares == (0, 0)
    assert sum("triplet loss is left out" in record.message for record in caplog.records) == 1
    now = step(scene, plugin, state, at={"source": torch.arange(12), "target": torch.arange(12)})
    assert set(now.terms()) == {"supervised", "s_hard", "t_soft"}


def test_one_direction_without_triplets_leaves_the_other(world, epoch):
    # Every target has the one code; source images of it find no target without it.
    codes = {"source": np.array([[1, 0]] * 6 + [[0, 1]] * 6), "target": np.array([[1, 0]] * 9)}
    _, state, counts = epoch(world(codes=codes), batch=(9, 9))
    assert counts["source_triplets"] == 0
    assert counts["target_triplets"] == 9
    assert state.shares == (0, 3)


def test_source_negatives_without_the_anchors_class(world, epoch):
    scene = world(seed=6, sizes=(60, 40))
    _, state, _ = epoch(scene, agt={"exclude_same_label": True, "anchors": "target"})
    a, _, n = state.triplets_target
    assert (state.t_hard[a].numpy() != scene.labels[n]).all()
    _, state, _ = epoch(scene, agt={"anchors": "target"})
    a, _, n = state.triplets_target
    assert (state.t_hard[a].numpy() == scene.labels[n]).any()


def test_an_order_is_a_sampler():
    order = Order(torch.tensor([3, 1, 2]))
    assert list(order) == [3, 1, 2]
    assert len(order) == 3


def test_draws_pass_after_pass():
    torch.manual_seed(0)
    drawn = draw(5, 12)
    assert sorted(drawn[:5].tolist()) == sorted(drawn[5:10].tolist()) == list(range(5))
    assert len(draw(5, 0)) == 0
    assert len(draw(3, 0, torch.ones(3))) == 0
    assert set(draw(3, 50, torch.tensor([0.0, 1.0, 1.0])).tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("by_class", "by_domain", "shares"),
    [
        (True, False, {"class": [0.5, 0.5]}),
        (False, True, {"domain": [0.5, 0.5]}),
        (True, True, {"domain": [0.5, 0.5], "first": [0.25, 0.25], "second": [0.5]}),
    ],
)
def test_source_samples_are_drawn_evenly(by_class, by_domain, shares):
    labels, domain = torch.tensor([0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 0, 1, 1])
    weights = balance(labels, domain, by_class=by_class, by_domain=by_domain)
    weights = weights / weights.sum()
    found = {
        "class": [weights[labels == k].sum() for k in (0, 1)],
        "domain": [weights[domain == d].sum() for d in (0, 1)],
        "first": [weights[(domain == 0) & (labels == k)].sum() for k in (0, 1)],
        "second": [weights[(domain == 1) & (labels == 1)].sum()],
    }
    for name, expected in shares.items():
        assert [share.item() for share in found[name]] == pytest.approx(expected), name


def test_nothing_uneven_needs_no_weights():
    labels, domain = torch.tensor([0, 1]), torch.tensor([0, 0])
    assert balance(labels, domain, by_class=False, by_domain=True) is None
    assert balance(labels, domain, by_class=False, by_domain=False) is None


def test_class_balanced_anchors(world, epoch):
    scene = world(sizes=(300, 200), seed=1)
    scene.labels = np.where(np.arange(300) < 290, 0, 1)
    _, state, _ = epoch(scene, steps=60, by_class=True)
    a, _ = state.shares
    anchors = state.order_source.view(60, 12)[:, :a].reshape(-1).numpy()
    assert 0.35 < (scene.labels[anchors] == 1).mean() < 0.65


def test_a_batch_in_another_order_is_refused(world, epoch, step):
    scene = world(seed=3)
    plugin, state, _ = epoch(scene)
    now = step(scene, plugin, state)
    now.at["target"] = now.at["target"].flip(0)
    with pytest.raises(RuntimeError, match="order is another's"):
        now.terms()
