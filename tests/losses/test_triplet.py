"""AdaFER's losses (Eqs 3 and 4) against literal NumPy in float64: values, numerical gradients, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fercore.losses import masked_cross_entropy, soft_kl, triplet


def eq4(anchor, positive, negative, gamma):
    """Eq 4 as printed, one triplet at a time, on L2-normalised features."""
    total = 0.0
    for rows in zip(anchor, positive, negative, strict=True):
        a, p, n = (row / max(math.sqrt((row**2).sum()), 1e-12) for row in rows)
        far = math.sqrt(((a - n) ** 2).sum() + 1e-12)
        near = math.sqrt(((a - p) ** 2).sum() + 1e-12)
        total += max(0.0, gamma - (far - near))
    return total / len(anchor)


def eq3_kl(logits, q, mask, direction="q_p"):
    """The KL term of Eq 3, one sample and class at a time, 0 log 0 = 0."""
    total, count = 0.0, 0
    for z, row, used in zip(logits, q, mask, strict=True):
        if not used:
            continue
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        count += 1
        for pc, qc in zip(p, row, strict=True):
            if direction == "q_p":
                total += qc * (math.log(qc) - math.log(pc)) if qc > 0 else 0.0
            else:
                total += pc * (math.log(pc) - math.log(max(qc, 1e-8)))
    return total / count if count else 0.0


def eq3_ce(logits, labels, mask):
    values = [-(z - z.max() - math.log(np.exp(z - z.max()).sum()))[y] for z, y in zip(logits, labels, strict=True)]
    kept = [v for v, used in zip(values, mask, strict=True) if used]
    return sum(kept) / len(kept) if kept else 0.0


def check(paper, torch_form, literal, arrays):
    """Value, and every input's gradient against central differences."""
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = torch_form(*leaves)
    assert value.shape == ()
    assert value.item() == pytest.approx(literal(*arrays), rel=1e-10, abs=1e-13)
    value.backward()
    for k, leaf in enumerate(leaves):
        slope = paper.gradient(lambda x, k=k: literal(*(x if i == k else a for i, a in enumerate(arrays))), arrays[k])
        np.testing.assert_allclose(leaf.grad.numpy(), slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.5])
@pytest.mark.parametrize("size", [(1, 3), (6, 4)])
def test_equation_4(paper, gamma, size):
    rng = np.random.default_rng(size[0])
    arrays = [rng.normal(size=size) for _ in range(3)]
    check(paper, lambda a, p, n: triplet(a, p, n, gamma), lambda a, p, n: eq4(a, p, n, gamma), arrays)


def test_equation_4_has_active_and_idle_triplets():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    near, far = torch.tensor([[3.0, 0.0], [-1.0, 0.0]]), torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    assert triplet(a, near, far, 0.5).item() == pytest.approx((0 + 0.5 + 2) / 2, abs=1e-5)


def test_the_margin_may_learn():
    rng = np.random.default_rng(0)
    a, p, n = (torch.tensor(rng.normal(size=(5, 3))) for _ in range(3))
    gamma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    triplet(a, p, n, gamma).backward()
    step = 1e-6
    slope = (eq4(a.numpy(), p.numpy(), n.numpy(), 0.7 + step) - eq4(a.numpy(), p.numpy(), n.numpy(), 0.7 - step)) / (
        2 * step
    )
    assert gamma.grad.item() == pytest.approx(slope, rel=1e-6)
    assert gamma.grad.item() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_and_zero_features_have_finite_gradients(dtype):
    same = torch.ones(2, 4, dtype=dtype, requires_grad=True)
    zero = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
    value = triplet(same, same, zero, 0.5) + triplet(zero, zero, zero, 0.5)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(same.grad).all()
    assert torch.isfinite(zero.grad).all()


def test_no_triplet_is_a_connected_zero():
    features = torch.ones(0, 4, requires_grad=True)
    value = triplet(features, features, features, 0.5)
    value.backward()
    assert value.item() == 0
    assert features.grad.shape == (0, 4)


@pytest.mark.parametrize("direction", ["q_p", "p_q"])
@pytest.mark.parametrize("mask", [(1, 1, 1, 1), (1, 0, 1, 0)])
def test_soft_labels(paper, direction, mask):
    rng = np.random.default_rng(1)
    q = rng.dirichlet(np.ones(5), size=4)
    q[0] = [0.5, 0, 0.5, 0, 0]
    q[2] = [0, 0, 0, 1, 0]
    used = torch.tensor(mask, dtype=torch.bool)

    def torch_form(z):
        return soft_kl(z, torch.tensor(q), used, direction=direction)

    check(paper, torch_form, lambda z: eq3_kl(z, q, mask, direction), [rng.normal(size=(4, 5)) * 2])


def test_soft_labels_agree_with_torch():
    rng = np.random.default_rng(2)
    z, q = torch.tensor(rng.normal(size=(6, 3))), torch.tensor(rng.dirichlet(np.ones(3), size=6))
    expected = torch.nn.functional.kl_div(z.log_softmax(1), q, reduction="batchmean")
    assert soft_kl(z, q, torch.ones(6, dtype=torch.bool)).item() == pytest.approx(expected.item(), rel=1e-12)


def test_hard_labels(paper):
    rng = np.random.default_rng(3)
    labels, mask = np.array([2, -1, 0, 1]), (1, 0, 1, 1)

    def torch_form(z):
        return masked_cross_entropy(z, torch.tensor(labels), torch.tensor(mask))

    check(paper, torch_form, lambda z: eq3_ce(z, labels, mask), [rng.normal(size=(4, 3))])


def test_weights_count_in_proportion():
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([1, 1])
    one = masked_cross_entropy(z[:1], labels[:1], torch.ones(1))
    other = masked_cross_entropy(z[1:], labels[1:], torch.ones(1))
    both = masked_cross_entropy(z, labels, torch.tensor([1.0, 0.25]))
    assert both.item() == pytest.approx((one.item() + 0.25 * other.item()) / 1.25)


@pytest.mark.parametrize("direction", ["q_p", "p_q"])
def test_an_empty_mask_is_a_connected_zero(direction):
    z = torch.randn(3, 4, requires_grad=True)
    none = torch.zeros(3, dtype=torch.bool)
    value = soft_kl(z, torch.zeros(3, 4), none, direction=direction)
    value = value + masked_cross_entropy(z, torch.full((3,), -1), none)
    value.backward()
    assert value.item() == 0
    assert (z.grad == 0).all()
