"""Every method with extreme logits, empty masks and ties; and the views whose statistics are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore import losses
from fercore.records.step import Role

K = 4


EXTREMES = (1e4, -1e4)


@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_logits_stay_finite(method, step, names, extreme):
    for name in names:
        s = step()
        s.logits = {key: z.copy() for key, z in s.logits.items()}
        for z in s.logits.values():
            z[0] = extreme * np.eye(K)[1]
            z[1] = 0.0
        plugin = method(name)
        model = s.model(plugin)
        if name == "dash":
            model.parts["dash/state"].start.fill_(1.0)
        _, terms = s.run(plugin, model)
        total = sum(term.weight * term.value for term in terms.values())
        total.backward()
        assert torch.isfinite(total), name
        for leaf in s.leaves.values():
            assert leaf.grad is None or torch.isfinite(leaf.grad).all(), name


@pytest.mark.parametrize(("labelled", "unlabelled"), [(1, 1), (1, 6), (3, 1)])
def test_fewer_samples_than_classes(method, step, names, labelled, unlabelled):
    for name in names:
        s = step(labelled=labelled, unlabelled=unlabelled)
        plugin = method(name)
        model = s.model(plugin, unlabelled)
        _, terms = s.run(plugin, model)
        total = sum(term.weight * term.value for term in terms.values())
        total.backward()
        assert torch.isfinite(total), name
        for leaf in (*s.leaves.values(), *s.embedded.values()):
            assert leaf.grad is None or torch.isfinite(leaf.grad).all(), name


def test_pseudo_labels_are_weights_in_the_unit_interval(method, step, names):
    for name in names:
        s = step()
        plugin = method(name)
        pseudo, terms = s.run(plugin, s.model(plugin))
        assert terms["cross_entropy"].role is Role.SUPERVISED
        assert terms["consistency"].role is Role.CONSISTENCY
        if pseudo is not None:
            assert ((pseudo.weight >= 0) & (pseudo.weight <= 1)).all()
            torch.testing.assert_close(pseudo.probs.sum(1), torch.ones(6, dtype=torch.float64))


def test_an_empty_mask_gives_a_connected_zero():
    z = torch.randn(3, K, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(3, dtype=torch.float64)
    uniform = torch.full((K,), 1 / K, dtype=torch.float64)
    for found in (
        losses.weighted_cross_entropy(z, torch.tensor([0, 1, 2]), nothing),
        losses.self_adaptive_fairness(z, nothing, uniform, uniform),
    ):
        (gradient,) = torch.autograd.grad(found, z)
        assert float(found.detach()) == 0
        assert (gradient == 0).all()


def test_weights_without_variance_are_a_threshold():
    confidence, zero = torch.tensor([0.4, 0.5, 0.6]), torch.tensor(0.0)
    assert losses.truncated_gaussian(confidence, torch.tensor(0.5), zero).tolist() == [0.0, 1.0, 1.0]


def test_sharpening_survives_small_probabilities():
    found = losses.sharpen(torch.tensor([[1e-30, 1e-30, 1 - 2e-30]]), 0.05)
    assert torch.isfinite(found).all()
    assert float(found[0, 2]) == 1.0


@pytest.mark.parametrize("statistics", ["weak", "all"])
def test_strong_views_leave_the_statistics_alone(method, step, statistics):
    s = step()
    plugin = method("fixmatch", statistics=statistics)
    model = s.model(plugin)
    target = s.batch().target
    norm = model.backbone[1]
    before = norm.running_mean.clone()
    encoded = plugin.encode(model, target, "strong").logits["main"]
    assert torch.equal(norm.running_mean, before) == (statistics == "weak")
    assert torch.allclose(encoded, model(target.images["strong"]).logits["main"])  # the batch's own statistics
    encoded.sum().backward()
    assert model.heads["main"].weight.grad is not None
    norm.running_mean.copy_(before)
    plugin.encode(model, target, "weak")
    assert not torch.equal(norm.running_mean, before)
