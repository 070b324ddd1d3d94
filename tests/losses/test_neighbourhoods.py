"""NRC's and AaD's terms against versions written out from the papers, value and gradient."""

from __future__ import annotations

import pytest
import torch

from fercore.losses import dispersion, nearest_others, neighbour_agreement, reciprocal_affinity, unit


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_sample_is_no_neighbour_of_itself_even_beside_copies():
    kept = unit(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    near = nearest_others(kept[[0, 3]], kept, torch.tensor([0, 3]), 2)
    assert set(near[0].tolist()) == {1, 2}
    assert 3 not in near[1].tolist()
    assert nearest_others(kept, kept, torch.arange(4), 9).shape == (4, 3)


def test_terms_are_the_papers():
    bank, shares = unit(draw(0, 12, 3)), draw(1, 12, 4).softmax(1)
    index = torch.tensor([4, 0, 7])
    logits = draw(2, 3, 4).requires_grad_()
    p = logits.softmax(1)
    near = nearest_others(bank[index], bank, index, 3)
    theirs = nearest_others(bank[near.flatten()], bank, near.flatten(), 2).view(3, 3, 2)
    affinity = reciprocal_affinity(near, theirs, index, 0.1)
    direct, expanded = 0.0, 0.0
    for b in range(3):
        order = sorted((j for j in range(12) if j != int(index[b])), key=lambda j: -float(bank[j] @ bank[index[b]]))[:3]
        for place, j in enumerate(order):
            their = sorted((m for m in range(12) if m != j), key=lambda m: -float(bank[m] @ bank[j]))[:2]
            weight = 1.0 if int(index[b]) in their else 0.1
            assert affinity[b, place] == pytest.approx(weight)
            direct = direct - weight * (shares[j] @ p[b]) / 3
            expanded = expanded - sum(0.1 * (shares[m] @ p[b]) for m in their) / 3
    scattered = sum(p[i] @ p[j] for i in range(3) for j in range(3) if i != j) / 3
    pairs = (
        (neighbour_agreement(p, shares[near], affinity), direct),
        (neighbour_agreement(p, shares[theirs.flatten(1)], 0.1), expanded),
        (dispersion(p), scattered),
    )
    for own, literal in pairs:
        assert own.item() == pytest.approx(literal.item(), abs=1e-7)
        own_slope, slope = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (own, literal))
        assert torch.allclose(own_slope, slope, atol=1e-7)


def test_one_sample_is_dispersed_from_none():
    assert dispersion(torch.tensor([[0.2, 0.8]])) == pytest.approx(0, abs=1e-7)
