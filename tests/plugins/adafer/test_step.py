"""The whole objective (Eqs 3 and 4) of a step against literal NumPy: values, gradients, switches and edges."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fercore_adafer.batches import Layout
from fercore_adafer.modules import Margin, State

from fercore.models import PseudoLabelRecord
from fercore.records.step import DomainBatch, Encoded, Progress, Role


def load(path):
    spec = importlib.util.spec_from_file_location(f"adafer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper = load(Path(__file__).parent / "paper.py")
gradient = load(Path(__file__).parents[2] / "losses" / "paper.py").gradient


def s_hard_labels(scene, now):
    """Each target's label by its place: of the anchor it is a positive of, of its positive, or its random match."""
    state, (a, b) = now.state, now.state.shares
    labels = [int(state.s_hard[i]) for i in now.at["target"]]
    for k in range(a):
        labels[k] = scene.labels[now.at["source"][k]]
    for k in range(b):
        labels[2 * a + k] = scene.labels[now.at["source"][a + k]]
    return labels


def triplets(now, f):
    a, b = now.state.shares
    first = [(f["source"][k], f["target"][k], f["target"][a + k]) for k in range(a)]
    return first + [(f["target"][2 * a + k], f["source"][a + k], f["source"][a + b + k]) for k in range(b)]


def literal(scene, now, f, z, beta=1.0, epsilon=1.0, gamma=0.5, direction="q_p"):
    at = now.at["target"].numpy()
    q, labelled = now.state.q.numpy()[at], now.state.matched.numpy()[at]
    target = paper.cross_entropy(z["target"], s_hard_labels(scene, now))
    target += paper.divergence(z["target"], q, labelled, direction)
    classified = paper.cross_entropy(z["source"], now.labels) + beta * target
    return classified + epsilon * paper.eq4(triplets(now, f), gamma)


def total(terms):
    return sum(term.weight * term.value for term in terms.values())


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({}, {}),
        ({"beta": 0.25, "epsilon": 2.0}, {"beta": 0.25, "epsilon": 2.0}),
        ({"agt": {"gamma": 1.25}}, {"gamma": 1.25}),
        ({"kl": "p_q"}, {"direction": "p_q"}),
        ({"agt": {"anchors": "source"}}, {}),
        ({"agt": {"anchors": "target"}}, {}),
    ],
)
def test_the_objective(world, epoch, step, settings, changed):
    scene = world(seed=8)
    now = step(scene, *epoch(scene, (13, 14), **settings)[:2], number=1)
    value = total(now.terms())
    assert value.item() == pytest.approx(literal(scene, now, now.f, now.z, **changed), rel=1e-9)
    value.backward()
    for kind, arrays in (("f", now.f), ("z", now.z)):
        for side in ("source", "target"):

            def of_one(x, kind=kind, side=side):
                f, z = ({**now.f, side: x}, now.z) if kind == "f" else (now.f, {**now.z, side: x})
                return literal(scene, now, f, z, **changed)

            slope = gradient(of_one, arrays[side])
            leaf = now.leaves[kind, side]
            np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


def test_terms_weights_and_roles(world, epoch, step):
    scene = world()
    terms = step(scene, *epoch(scene, beta=0.5, epsilon=0.75)[:2]).terms()
    assert {name: (term.weight, term.role) for name, term in terms.items()} == {
        "supervised": (1.0, Role.SUPERVISED),
        "s_hard": (0.5, Role.CONSISTENCY),
        "t_soft": (0.5, Role.CONSISTENCY),
        "triplet": (0.75, Role.CONTRASTIVE),
    }


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        ("S-hard", {"s_hard"}),
        ("t_hard", {"t_hard"}),
        ("t_soft", {"t_soft"}),
        ("t_soft+s_hard+t_hard", {"s_hard", "t_hard", "t_soft"}),
        ("t_hard+t_soft", {"t_hard", "t_soft"}),
    ],
)
def test_every_scheme(world, epoch, step, scheme, names):
    scene = world(seed=1)
    now = step(scene, *epoch(scene, aga={"scheme": scheme})[:2])
    terms = now.terms()
    assert set(terms) == {"supervised", "triplet", *names}
    at = now.at["target"].numpy()
    z, q, labelled = now.z["target"], now.state.q.numpy()[at], now.state.matched.numpy()[at]
    expected = {
        "s_hard": paper.cross_entropy(z, s_hard_labels(scene, now)),
        "t_hard": paper.cross_entropy(z, now.state.t_hard.numpy()[at]),
        "t_soft": paper.divergence(z, q, labelled),
    }
    for name in names:
        assert terms[name].value.item() == pytest.approx(expected[name], rel=1e-9)


@pytest.mark.parametrize("conflict", ["random", "majority", "last"])
def test_other_conflict_rules_do_not_look_at_the_pair(world, epoch, step, conflict):
    scene = world(seed=1)
    now = step(scene, *epoch(scene, s_hard={"conflict": conflict})[:2])
    labels = now.state.s_hard.numpy()[now.at["target"].numpy()]
    assert now.terms()["s_hard"].value.item() == pytest.approx(paper.cross_entropy(now.z["target"], labels), rel=1e-9)
    assert now.pseudo.labels.tolist() == labels.tolist()


def test_the_pair_decides_where_labels_conflict(world, epoch, step):
    """Two source images of one code, two classes: each target takes the class of the image it is paired with."""
    codes = {"source": np.array([[1, 0], [1, 0], [0, 1]]), "target": np.array([[1, 0], [0, 1]])}
    scene = world(codes=codes)
    scene.labels = np.array([0, 1, 2])
    plugin, state, _ = epoch(scene, (30, 30), seed=3)
    now = step(scene, plugin, state)
    now.terms()
    a, b = state.shares
    layout, seen = Layout(a, b), set()
    for source, target in (layout.source_anchored()[:2], layout.target_anchored()[1::-1]):
        pairs = zip(now.at["source"][source].tolist(), now.pseudo.labels[target].tolist(), strict=True)
        seen |= set(pairs)
    assert seen == {(0, 0), (1, 1), (2, 2)}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"aga": {"on": False}, "agt": {"on": False}}, {"supervised"}),
        ({"agt": {"on": False}}, {"supervised", "s_hard", "t_soft"}),
        ({"aga": {"on": False}}, {"supervised", "triplet"}),
        ({}, {"supervised", "s_hard", "t_soft", "triplet"}),
    ],
)
def test_rows_of_table_3(world, epoch, step, settings, names):
    scene = world()
    plugin, state, _ = epoch(scene, **settings)
    at = None if plugin.settings.agt.on else {"source": torch.arange(12), "target": torch.arange(12)}
    assert set(step(scene, plugin, state, at=at).terms()) == names


def test_a_batch_without_a_pseudo_label_is_a_connected_zero(world, epoch, step):
    scene = world()
    plugin, state, _ = epoch(scene, agt={"on": False})
    none = (~state.matched).nonzero().flatten()[:3]
    assert len(none) == 3
    now = step(scene, plugin, state, at={"source": torch.arange(4), "target": none})
    terms = now.terms()
    assert terms["s_hard"].value.item() == terms["t_soft"].value.item() == 0
    (terms["s_hard"].value + terms["t_soft"].value).backward()
    assert (now.leaves["z", "target"].grad == 0).all()


def test_one_triplet_and_collapsed_features(world, epoch, step):
    scene = world()
    now = step(scene, *epoch(scene, (3, 3))[:2])
    assert now.state.shares == (1, 1)
    with torch.no_grad():
        now.leaves["f", "source"].zero_()
        now.leaves["f", "target"].fill_(0.3)
    value = total(now.terms())
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in now.leaves.values())


def test_soft_labels_with_zeros_have_no_nan(world, epoch, step):
    scene = world()
    now = step(scene, *epoch(scene, kl="p_q")[:2])
    assert (now.state.q == 0).any()
    with torch.no_grad():
        now.leaves["z", "target"].mul_(100)
    assert torch.isfinite(total(now.terms()))


def test_a_learnable_margin(world, epoch, step):
    scene = world(seed=9)
    now = step(scene, *epoch(scene, gamma={"mode": "learnable", "pull": 3.0, "floor": 0.05})[:2])
    terms = now.terms()
    margin = now.model.parts["adafer/margin"]
    assert margin().item() == pytest.approx(0.5)
    assert terms["triplet"].value.item() == pytest.approx(paper.eq4(triplets(now, now.f), 0.5), rel=1e-7)
    assert (terms["margin"].value.item(), terms["margin"].weight) == (pytest.approx(0, abs=1e-12), 3.0)
    total(terms).backward()
    step_size = 1e-6
    slope = (paper.eq4(triplets(now, now.f), 0.5 + step_size) - paper.eq4(triplets(now, now.f), 0.5 - step_size)) / (
        2 * step_size
    )
    inner = 1 - np.exp(-(0.5 - 0.05))  # softplus'(theta) where softplus(theta) = 0.45
    assert margin.theta.grad.item() == pytest.approx(slope * inner, rel=1e-5)


def test_a_margin_never_falls_to_its_floor():
    margin = Margin(0.5, 0.1)
    with torch.no_grad():
        margin.theta.fill_(-5.0)
    assert 0.1 < margin().item() < 0.11


def test_only_training_stages_have_target_terms(world, epoch, step):
    scene = world()
    now = step(scene, *epoch(scene)[:2])
    assert set(now.terms(Progress("pretrain", "main", 0, 0, 10))) == {"supervised"}


@pytest.mark.parametrize(
    ("baseline", "name"), [("hard_labels", "t_hard"), ("soft_labels", "t_soft"), ("joint", "t_soft")]
)
def test_fine_tuning_learns_from_the_source_models_predictions(world, method, step, baseline, name):
    scene, plugin = world(), method(baseline=baseline)
    state = State(3).double()
    record = PseudoLabelRecord(3)
    model = SimpleNamespace(parts={"adafer/state": state, "adafer/labels_predicted": record})
    clock = Progress("finetune", "main", 0, 0, 10)
    plugin.refresh(model=model, clock=clock, encode_dataset=scene.dataset, task=None)
    logits = scene.dataset("target").logits["main"]
    torch.testing.assert_close(state.q, logits.softmax(1).double())
    assert torch.equal(record.probs, logits.softmax(1))
    assert (record.weight == 1).all()
    now = step(scene, plugin, state, at={"source": torch.arange(5), "target": torch.arange(9)})
    del now.leaves["z", "source"]
    now.at.pop("source")
    batch = SimpleNamespace(target=now.side("target"), source=None)
    encoded = {("target", "weak"): Encoded({}, {"main": now.leaves["z", "target"]})}
    pseudo = plugin.pseudo_label(model=model, batch=batch, clock=clock)
    assert plugin.align(model=model, batch=batch, encoded=encoded, clock=clock) == []
    (term,) = plugin.loss(model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)
    assert term.name == f"adafer/{name}"
    z, q = now.z["target"], state.q.numpy()[:9]
    expected = paper.cross_entropy(z, q.argmax(1)) if name == "t_hard" else paper.divergence(z, q, [True] * 9)
    assert term.value.item() == pytest.approx(expected, rel=1e-6)
    # A second epoch keeps the labels of the source model.
    before = state.q.clone()
    assert plugin.refresh(model=model, clock=clock, encode_dataset=None, task=None) is None
    assert torch.equal(before, state.q)


def test_a_single_image_is_encoded_with_running_statistics(method):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def forward(self, x):
            return Encoded({"main": self.norm(x)}, {"main": x})

    network, plugin = Network().train(), method()
    one = DomainBatch({"weak": torch.ones(1, 2)}, torch.zeros(1), torch.zeros(1), torch.zeros(1))
    plugin.encode(model=network, batch=one, view="weak")
    assert network.training
    assert network.norm.training
    assert network.norm.num_batches_tracked == 0
    two = DomainBatch({"weak": torch.rand(2, 2)}, torch.zeros(2), torch.zeros(2), torch.zeros(2))
    plugin.encode(model=network, batch=two, view="weak")
    assert network.norm.num_batches_tracked == 1
