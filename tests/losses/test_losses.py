"""Edges of the losses: empty groups, single rows, the alternatives of the ablations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fercore import losses


def finite_gradient(value, *leaves):
    assert torch.isfinite(value).all()
    value.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_no_reliable_sample_gives_zero_with_the_graph_intact():
    x, y = torch.randn(2, 4, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    empty = losses.hardness_weights(torch.rand(2, 4, 7), mask=torch.zeros(2, 4, dtype=torch.bool))
    assert empty.tolist() == [[0.0] * 4] * 2
    value = losses.sample_mmd(x, y, empty, torch.full((2, 5), 0.2))
    assert value.tolist() == [0.0, 0.0]
    finite_gradient(value, x, y)


def test_a_certain_prediction_has_no_hardness():
    assert losses.hardness_weights(torch.eye(3), torch.arange(3)).tolist() == [0.0] * 3
    assert losses.hardness_weights(torch.eye(3), torch.tensor([1, 1, 1])).tolist() == [0.5, 0.0, 0.5]


def test_identical_features_are_at_distance_zero():
    x = torch.ones(3, 4, requires_grad=True)
    value = losses.plain_mmd(x, torch.ones(2, 4))
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    finite_gradient(value, x)


def test_single_rows_are_allowed():
    x = torch.randn(1, 4, requires_grad=True)
    finite_gradient(losses.plain_mmd(x, torch.randn(1, 4)), x)


@pytest.mark.parametrize(
    ("valid", "alive"),
    [
        ([[True, True], [False, False]], True),
        ([[True, False], [False, True]], False),
        ([[False, True], [True, False]], False),
        ([[False, False], [False, False]], False),
    ],
)
def test_clusters_need_a_pair_of_each_kind(valid, alive):
    value = torch.tensor([[[2.0, 0.5], [0.0, 0.0]]], requires_grad=True)
    found, flag = losses.pair_contrast(value, torch.tensor([valid]))
    assert flag.tolist() == [alive]
    assert found.item() == (1.5 if alive else 0.0)
    finite_gradient(found, value)


def test_rest_of_one_class_is_empty():
    x, y = torch.randn(1, 3, 2, requires_grad=True), torch.randn(1, 2, 2, requires_grad=True)
    labels = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
    value, valid = losses.rest_mmd(x, y, *labels, 3)
    assert not valid.any()
    assert value.abs().sum().item() == 0
    finite_gradient(value, x, y)


def test_rest_leaves_unknown_labels_out():
    x, y = torch.randn(1, 2, 2), torch.randn(1, 3, 2)
    _, valid = losses.rest_mmd(x, y, torch.tensor([[0, 1]]), torch.tensor([[0, -1, -1]]), 2)
    assert valid.tolist() == [[False, True]]


@pytest.mark.parametrize("norm", ["batch", "selected"])
def test_no_vote_gives_zero_with_the_graph_intact(norm):
    logits = torch.zeros(4, 7, requires_grad=True)
    pseudo = losses.vote(logits.softmax(1), logits.softmax(1), 0.9)
    value = losses.voted_cross_entropy([logits, logits], pseudo.labels, pseudo.weight, norm=norm)
    assert value.item() == 0
    finite_gradient(value, logits)


def test_a_vote_needs_agreement_and_one_sure_view():
    sure, unsure, other = torch.tensor([[0.95, 0.05]]), torch.tensor([[0.6, 0.4]]), torch.tensor([[0.02, 0.98]])
    assert losses.vote(sure, unsure, 0.9).weight.item() == 1
    assert losses.vote(unsure, sure, 0.9).weight.item() == 1
    assert losses.vote(unsure, unsure, 0.9).weight.item() == 0
    split = losses.vote(sure, other, 0.9)
    assert (split.weight.item(), split.labels.item()) == (0, 1)
    assert losses.vote(torch.tensor([[0.75, 0.25]]), unsure, 0.75).weight.item() == 0, (
        "the threshold itself is not enough"
    )
    assert not split.probs.requires_grad


def test_consistency_alternatives():
    a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, 1.0]])
    p, q = a.softmax(1), b.softmax(1)
    kl = 0.5 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
    assert losses.symmetric_kl(a, b).item() == pytest.approx(kl.item(), rel=1e-5)
    assert losses.mean_absolute(a, b).item() == pytest.approx(1.5)
    assert losses.mean_squared(a, b).item() == pytest.approx(2.5)
    assert losses.symmetric_kl(a, a).item() == pytest.approx(0, abs=1e-7)


def test_logits_with_rows_that_sum_to_zero_stay_finite():
    a = torch.tensor([[1.0, -1.0], [1.0, -1.0]], requires_grad=True)
    finite_gradient(losses.mutual_consistency(a, a.detach(), inputs="logit", form="offdiag"), a)


def test_gradient_reversal_and_its_ramp():
    x = torch.tensor([2.0], requires_grad=True)
    (3 * losses.reverse_gradient(x, 0.5)).backward()
    assert x.grad.item() == -1.5
    assert losses.ramp(0.0) == 0
    assert losses.ramp(1.0) == pytest.approx(2 / (1 + math.exp(-10)) - 1)


def test_adversarial_loss_trains_the_discriminator_and_confuses_the_features():
    torch.manual_seed(0)
    critic = nn.Linear(3, 1)
    source = torch.randn(4, 3, requires_grad=True)
    value = losses.domain_adversarial(critic, source, torch.randn(6, 3), strength=1.0)
    value.backward()
    pushed = losses.domain_adversarial(critic, (source - 0.1 * source.grad).detach(), torch.zeros(6, 3), 1.0)
    kept = losses.domain_adversarial(critic, source.detach(), torch.zeros(6, 3), 1.0)
    assert pushed > kept
    assert critic.weight.grad is not None


def test_domain_mean_counts_every_domain_alike():
    values, domain = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 4])
    assert losses.domain_mean(values, domain).item() == pytest.approx((2 + 10) / 2)
