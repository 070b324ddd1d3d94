"""Equations 1-13 of LA-CMFER against the literal NumPy of `paper.py`: values, and gradients by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore import losses, ops

CLASSES = 4
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
SLOPE = {"rtol": 1e-5, "atol": 1e-8}


def draw(seed, *shape, scale=1.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


def tensor(array, *, grad=False):
    return torch.tensor(array, dtype=torch.float64, requires_grad=grad)


def check_gradient(paper, function, loss, array):
    leaf = tensor(array, grad=True)
    loss(leaf).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), paper.gradient(function, array), **SLOPE)


@pytest.fixture
def sides():
    x, y = draw(1, 6, 3), draw(2, 5, 3) + 0.5
    z_x, z_y = draw(3, 6, CLASSES, scale=2), draw(4, 5, CLASSES, scale=2)
    return x, y, z_x, z_y, np.array([0, 1, 2, 0, 1, 3])


def test_equations_1_and_2(paper, sides):
    x, y, *_ = sides
    found = losses.plain_mmd(tensor(x), tensor(y))
    np.testing.assert_allclose(found.item(), paper.eq1_2(x, y), **CLOSE)
    frozen = (x, y)
    check_gradient(paper, lambda v: paper.eq1_2(v, y, frozen), lambda v: losses.plain_mmd(v, tensor(y)), x)
    check_gradient(paper, lambda v: paper.eq1_2(x, v, frozen), lambda v: losses.plain_mmd(tensor(x), v), y)


def test_equation_3(paper, sides):
    _, _, z, _, labels = sides
    probs = paper.softmax(z)
    source = [paper.eq3(p, label) for p, label in zip(probs, labels, strict=True)]
    target = [paper.eq3(p, p.argmax()) for p in probs]
    np.testing.assert_allclose(losses.remaining_norm(tensor(probs), torch.tensor(labels)), source, **CLOSE)
    np.testing.assert_allclose(losses.remaining_norm(tensor(probs)), target, **CLOSE)
    unknown = torch.full((len(z),), -1)
    np.testing.assert_allclose(losses.remaining_norm(tensor(probs), unknown), target, **CLOSE)


@pytest.mark.parametrize("eps", [0.0, 0.4, 0.6])
def test_equation_4(paper, sides, eps):
    _, _, z_x, z_y, labels = sides
    for z, given in ((z_x, labels), (z_y, None)):
        probs = paper.softmax(z)
        mask = paper.reliable(probs, eps)
        expected = paper.eq4(probs, probs.argmax(1) if given is None else given, mask)
        found = losses.hardness_weights(
            tensor(probs), None if given is None else torch.tensor(given), losses.confident(tensor(probs), eps)
        )
        np.testing.assert_allclose(found, expected, **CLOSE)
        assert found.sum().item() == pytest.approx(1.0)


def test_hardness_is_a_constant():
    probs = torch.randn(5, CLASSES, dtype=torch.float64, requires_grad=True).softmax(1)
    assert not losses.hardness_weights(probs).requires_grad
    assert not losses.hardness_weights(probs, torch.zeros(5, dtype=torch.int64), torch.ones(5)).requires_grad


def test_hardness_of_groups_is_that_of_each(paper):
    probs = torch.tensor(draw(5, 3, 6, CLASSES)).softmax(-1)
    labels = torch.randint(0, CLASSES, (3, 6))
    mask = torch.rand(3, 6) > 0.3
    together = losses.hardness_weights(probs, labels, mask)
    alone = torch.stack([losses.hardness_weights(probs[g], labels[g], mask[g]) for g in range(3)])
    torch.testing.assert_close(together, alone)


def test_equations_5_and_6(paper, sides):
    x, y, z_x, z_y, labels = sides
    h_x = paper.eq4(paper.softmax(z_x), labels)
    h_y = paper.eq4(paper.softmax(z_y), z_y.argmax(1))
    weights = (tensor(h_x), tensor(h_y))
    found = losses.sample_mmd(tensor(x), tensor(y), *weights)
    np.testing.assert_allclose(found.item(), paper.eq5_6(x, y, h_x, h_y), **CLOSE)
    at = (x, y)
    check_gradient(
        paper, lambda v: paper.eq5_6(v, y, h_x, h_y, at), lambda v: losses.sample_mmd(v, tensor(y), *weights), x
    )
    check_gradient(
        paper, lambda v: paper.eq5_6(x, v, h_x, h_y, at), lambda v: losses.sample_mmd(tensor(x), v, *weights), y
    )


def cluster(x, y, x_labels, y_labels, w_x, w_y, pairs):
    weights = {"wx": w_x[None], "wy": w_y[None]}
    args = (x[None], y[None], torch.tensor(x_labels)[None], torch.tensor(y_labels)[None], CLASSES)
    value, valid = ops.class_mmd(*args, **weights)
    if pairs == "all_pairs":
        return losses.pair_contrast(value, valid)[0].squeeze()
    rest, ok = losses.rest_mmd(*args, **weights)
    near = value[0].diagonal()[valid[0].diagonal()]
    far = rest[0][ok[0]]
    return near.mean() - far.mean() if len(near) and len(far) else value.sum() * 0


@pytest.mark.parametrize("pairs", ["all_pairs", "one_vs_rest"])
@pytest.mark.parametrize("uniform", [False, True])
def test_equations_7_and_8(paper, sides, pairs, uniform):
    x, y, z_x, z_y, labels = sides
    guessed = np.array([0, 2, 2, 1, 0])
    h_x = np.ones(6) if uniform else paper.eq4(paper.softmax(z_x), labels)
    h_y = np.ones(5) if uniform else paper.eq4(paper.softmax(z_y), z_y.argmax(1))
    weights = (tensor(h_x), tensor(h_y), pairs)

    def literal(x, y, at=None):
        return paper.eq7_8(x, y, labels, guessed, CLASSES, h_x, h_y, pairs, at)

    found = cluster(tensor(x), tensor(y), labels, guessed, *weights)
    np.testing.assert_allclose(found.item(), literal(x, y), **CLOSE)
    check_gradient(
        paper, lambda v: literal(v, y, (x, y)), lambda v: cluster(v, tensor(y), labels, guessed, *weights), x
    )
    check_gradient(
        paper, lambda v: literal(x, v, (x, y)), lambda v: cluster(tensor(x), v, labels, guessed, *weights), y
    )


def test_equations_10_and_11(paper, sides):
    _, _, _, z, _ = sides
    other = draw(9, *z.shape)
    found = losses.mutual_consistency(tensor(z), tensor(other))
    np.testing.assert_allclose(found.item(), paper.eq11(paper.softmax(z), paper.softmax(other)), **CLOSE)
    rows, columns = (paper.eq10(*pair) for pair in ((paper.softmax(z), paper.softmax(other)),) * 2)
    rows, columns = rows / rows.sum(1, keepdims=True), (columns.T / columns.T.sum(1, keepdims=True))
    assert found.item() == pytest.approx(2 - (np.trace(rows) + np.trace(columns)) / CLASSES)
    check_gradient(
        paper,
        lambda v: paper.eq11(paper.softmax(v), paper.softmax(other)),
        lambda v: losses.mutual_consistency(v, tensor(other)),
        z,
    )


def test_the_released_form_is_half_of_equation_11(paper):
    z, other = draw(7, 9, CLASSES), draw(8, 9, CLASSES)
    whole, half = (losses.mutual_consistency(tensor(z), tensor(other), form=form) for form in ("abs", "offdiag"))
    np.testing.assert_allclose(half.item(), paper.official_mcc(paper.softmax(z), paper.softmax(other)), **CLOSE)
    assert whole.item() == pytest.approx(2 * half.item())
    raw = losses.mutual_consistency(tensor(z), tensor(other), inputs="logit", form="offdiag")
    np.testing.assert_allclose(raw.item(), paper.official_mcc(z, other), rtol=1e-7)


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_equation_12(paper, tau):
    z_g = draw(11, 12, CLASSES, scale=3)
    z_l = z_g + draw(12, 12, CLASSES, scale=2)
    p_g, p_l = paper.softmax(z_g), paper.softmax(z_l)
    votes = paper.eq12_votes(p_g, p_l, tau)
    found = losses.vote(tensor(p_g), tensor(p_l), tau)
    assert found.weight.tolist() == [float(v is not None) for v in votes]
    assert 0 < sum(found.weight.tolist()) < 12
    assert [int(x) for x, v in zip(found.labels, votes, strict=True) if v is not None] == [
        v for v in votes if v is not None
    ]
    for norm, literal in (("batch", paper.eq12), ("selected", paper.official_mvv)):

        def loss(g, t, norm=norm):
            return losses.voted_cross_entropy([g, t], found.labels, found.weight, norm=norm)

        np.testing.assert_allclose(loss(tensor(z_g), tensor(z_l)).item(), literal(z_g, z_l, votes), **CLOSE)
        check_gradient(paper, lambda v, f=literal: f(v, z_l, votes), lambda v: loss(v, tensor(z_l)), z_g)


def test_equation_13(paper, sides):
    _, _, z_g, _, labels = sides
    z_l = draw(13, *z_g.shape)
    domain = np.array([0, 2, 2, 0, 2, 2])

    def loss(g, t):
        both = [torch.nn.functional.cross_entropy(z, torch.tensor(labels), reduction="none") for z in (g, t)]
        return losses.domain_mean(both[0] + both[1], torch.tensor(domain))

    np.testing.assert_allclose(loss(tensor(z_g), tensor(z_l)).item(), paper.eq13(z_g, z_l, labels, domain), **CLOSE)
    check_gradient(paper, lambda v: paper.eq13(v, z_l, labels, domain), lambda v: loss(v, tensor(z_l)), z_g)


def test_released_hardness_on_logits(paper, sides):
    _, _, z, _, labels = sides
    mask = np.array([1, 0, 1, 1, 1, 1])
    expected = paper.official_weight(z, labels, mask, [], require_match=False)
    found = losses.normalise_weights(losses.logit_square(tensor(z), torch.tensor(labels)), torch.tensor(mask))
    np.testing.assert_allclose(found, expected, **CLOSE)
