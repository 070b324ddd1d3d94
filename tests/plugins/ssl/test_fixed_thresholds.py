"""Methods whose thresholds follow no state of the samples, in literal NumPy: fixmatch, uda, pseudo_label, dash."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fercore.records.step import Role

K = 4


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.999999])
def test_fixmatch(method, step, paper, threshold):
    s = step()
    plugin = method("fixmatch", p_cutoff=threshold, lambda_u=2.0)
    pseudo, terms = s.run(plugin, s.model(plugin))
    labelled, weak, _, strong = s.views()
    assert s.value(terms, "cross_entropy") == s.near(paper.labelled_loss(labelled, s.labels))
    assert s.value(terms, "consistency") == s.near(paper.fixmatch(weak, strong, threshold))
    assert (terms["consistency"].weight, terms["consistency"].role) == (2.0, Role.CONSISTENCY)
    assert pseudo.labels.tolist() == weak.argmax(1).tolist()
    terms["consistency"].value.backward()
    chosen = paper.softmax(weak).max(1) >= threshold
    expected = (paper.softmax(strong) - np.eye(K)[weak.argmax(1)]) * chosen[:, None] / len(weak)
    np.testing.assert_allclose(s.leaves["target", "strong"].grad.numpy(), expected, atol=1e-12)
    assert s.leaves["target", "weak"].grad is None


def test_fixmatch_with_soft_labels(method, step, paper):
    s = step()
    plugin = method("fixmatch", p_cutoff=0.5, hard_label=False, T=0.25)
    _, terms = s.run(plugin, s.model(plugin))
    assert s.value(terms, "consistency") == s.near(paper.soft_above(*s.views()[1::2], 0.5, 0.25))


@pytest.mark.parametrize("schedule", ["none", "linear", "log", "exp"])
def test_uda(method, step, paper, schedule):
    s = step()
    plugin = method("uda", tsa_schedule=schedule)
    _, terms = s.run(plugin, s.model(plugin), s.clock(4))
    labelled, weak, _, strong = s.views()
    assert s.value(terms, "consistency") == s.near(paper.soft_above(weak, strong, 0.8, 0.4))
    progress = 0.4
    share = {"none": 1.0, "linear": progress, "log": 1 - math.exp(-5 * progress), "exp": math.exp(5 * (progress - 1))}
    level = 1.0 if schedule == "none" else share[schedule] * (1 - 1 / K) + 1 / K
    kept = [paper.softmax(z).max() <= level for z in labelled]
    expected = sum(paper.cross_entropy(z, y) for z, y, k in zip(labelled, s.labels, kept, strict=True) if k)
    assert s.value(terms, "cross_entropy") == s.near(expected / len(labelled))
    assert schedule == "none" or not all(kept) or expected > 0


def test_annealing_leaves_samples_out(method, step, paper):
    s = step(scale=6.0)
    plugin = method("uda", tsa_schedule="exp")
    _, terms = s.run(plugin, s.model(plugin), s.clock(0))
    assert s.value(terms, "cross_entropy") < paper.labelled_loss(s.views()[0], s.labels)


def test_pseudo_label_and_its_rise(method, step, paper):
    s = step()
    plugin = method("pseudo_label", p_cutoff=0.6)
    for done, weight in ((0, 0.0), (2, 0.5), (4, 1.0), (9, 1.0)):
        _, terms = s.run(plugin, s.model(plugin), s.clock(done))
        weak = s.views()[1]
        assert s.value(terms, "consistency") == s.near(paper.fixmatch(weak, weak, 0.6))
        assert terms["consistency"].weight == pytest.approx(weight)


def test_dash_over_a_run(method, step, paper):
    s = step(scale=1.5)
    plugin = method("dash", gamma=2.0, C=1.01, rho_min=0.3, T=0.5, update_share=0.2)
    model = s.model(plugin)
    model.parts["dash/state"].start.fill_(1.6)
    _, weak, _, strong = s.views()
    hard = []
    for done in range(10):
        rho = 1.01 * 2.0 ** -(done // 2) * 1.6
        total, mask = 0.0, []
        for w, z in zip(weak, strong, strict=True):
            p = paper.softmax(w)
            target = np.eye(K)[p.argmax()] if rho <= 0.3 else paper.softmax(w / 0.5)
            mask.append(paper.soft_cross_entropy(w, target) <= max(rho, 0.3))
            total += paper.soft_cross_entropy(z, target) * mask[-1]
        pseudo, terms = s.run(plugin, model, s.clock(done))
        assert pseudo.weight.tolist() == [float(m) for m in mask]
        assert s.value(terms, "consistency") == pytest.approx(total / 6, rel=1e-9)
        hard.append(rho <= 0.3)
    assert hard[0] is False
    assert hard[-1] is True
    assert plugin.pseudo_label(model, s.batch(), s.encoded(), s.clock(0, stage="warm_up")) is None
