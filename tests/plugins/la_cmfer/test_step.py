"""The whole objective (Eqs 9, 13, 14) of a step against literal NumPy: value, gradients, variants and edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

EPS, TAU, LAMBDA, ALPHA, BETA, GAMMA = 0.4, 0.7, 0.02, 0.1, 0.5, 0.1
BRANCHES = ("global", "local")


def literal_total(paper, inputs, now, pairs="all_pairs", inv_batch=False):
    """Eq 14 with the source's domains one by one; what the optimiser sees as constant comes from inputs.arrays."""
    base = inputs.arrays
    inter = 0.0
    for n in sorted(set(inputs.domain)):
        mine = np.flatnonzero(inputs.domain == n)
        for m in BRANCHES:
            p_s, p_t = paper.softmax(base["source", m, "z"][mine]), paper.softmax(base["target", m, "z"])
            y_s, y_t = inputs.labels[mine], p_t.argmax(1)
            h_s, h_t = paper.eq4(p_s, y_s, paper.reliable(p_s, EPS)), paper.eq4(p_t, y_t, paper.reliable(p_t, EPS))
            x, y = now["source", m, "f"][mine], now["target", m, "f"]
            at = base["source", m, "f"][mine], base["target", m, "f"]
            shrink = (1 / len(x), 1 / len(y)) if inv_batch else (1, 1)
            inter += paper.eq5_6(x, y, h_s * shrink[0], h_t * shrink[1], at)
            inter += LAMBDA * paper.eq7_8(x, y, y_s, y_t, inputs.classes, h_s, h_t, pairs, at)
    z_s, z_t = ([now[side, m, "z"] for m in BRANCHES] for side in ("source", "target"))
    votes = paper.eq12_votes(*(paper.softmax(base["target", m, "z"]) for m in BRANCHES), TAU)
    mcc = paper.eq11(*(paper.softmax(z) for z in z_t))
    supervised = paper.eq13(*z_s, inputs.labels, inputs.domain)
    return supervised + ALPHA * inter + BETA * mcc + GAMMA * paper.eq12(*z_t, votes)


def total(terms):
    return sum(term.weight * term.value for term in terms.values())


@pytest.mark.parametrize(
    "domain", [(0, 0, 0, 0, 1, 1, 1, 1), (1, 0, 1, 0, 0, 1, 2, 2), (0, 1, 1, 0, 1, 1, 1), (0,) * 6]
)
@pytest.mark.parametrize("pairs", ["all_pairs", "one_vs_rest"])
def test_equation_14_value(paper, inputs, step, domain, pairs):
    world = inputs(domain)
    found = total(step(world, tau=TAU, cid={"pairs": pairs}))
    assert found.item() == pytest.approx(literal_total(paper, world, world.arrays, pairs), rel=1e-9)


def test_equation_6_to_the_letter(paper, inputs, step):
    world = inputs()
    found = total(step(world, tau=TAU, hardness={"inv_batch": True}))
    assert found.item() == pytest.approx(literal_total(paper, world, world.arrays, inv_batch=True), rel=1e-9)


@pytest.mark.parametrize("domain", [(0, 0, 0, 1, 1, 1), (1, 0, 1, 1, 0)])
def test_equation_14_gradients(paper, inputs, step, domain):
    world = inputs(domain, target=4)
    total(step(world, tau=TAU)).backward()
    for key in [
        ("source", "global", "f"),
        ("target", "local", "f"),
        ("source", "local", "z"),
        ("target", "global", "z"),
    ]:

        def of_one(value, key=key):
            return literal_total(paper, world, {**world.arrays, key: value})

        slope = paper.gradient(of_one, world.arrays[key])
        np.testing.assert_allclose(world.leaves[key].grad.numpy(), slope, rtol=1e-5, atol=1e-8)


def test_the_step_holds_every_term_once(inputs, step):
    terms = step(inputs(), tau=TAU)
    weights = {name: term.weight for name, term in terms.items()}
    assert weights == {
        "supervised": 1.0,
        "sample_mmd": ALPHA,
        "cluster_mmd": pytest.approx(ALPHA * LAMBDA),
        "consistency": BETA,
        "voting": GAMMA,
    }


def official_alignment(paper, world, sample_only=False):
    sample = cluster = 0.0
    for m in BRANCHES:
        x, y = (world.arrays[side, m, "f"] for side in ("source", "target"))
        z_s, z_t = (world.arrays[side, m, "z"] for side in ("source", "target"))
        guessed = z_t.argmax(1)
        masks = [paper.reliable(paper.softmax(z), EPS) for z in (z_s, z_t)]
        a = paper.official_weight(z_s, world.labels, masks[0], guessed, require_match=True)
        b = paper.official_weight(z_t, guessed, masks[1], world.labels, require_match=True)
        sample += paper.eq5_6(x, y, a, b)
        cluster += paper.official_cluster(x, y, world.labels, guessed, *masks)
    return sample, cluster


@pytest.mark.parametrize("seed", range(4))
def test_the_official_variant_follows_the_released_formulas(paper, inputs, step, seed):
    world = inputs((0, 1, 0, 1, 1, 1), seed=seed, classes=4, target=4)
    terms = step(world, variant="official", tau=TAU)
    sample, cluster = official_alignment(paper, world)
    z_s, z_t = ([world.arrays[side, m, "z"] for m in BRANCHES] for side in ("source", "target"))
    votes = paper.eq12_votes(*(paper.softmax(z) for z in z_t), TAU)
    assert terms["sample_mmd"].value.item() == pytest.approx(sample, rel=1e-9)
    assert terms["cluster_mmd"].value.item() == pytest.approx(cluster, rel=1e-9, abs=1e-12)
    assert terms["consistency"].value.item() == pytest.approx(paper.official_mcc(*z_t), rel=1e-7)
    assert terms["voting"].value.item() == pytest.approx(paper.official_mvv(*z_t, votes), rel=1e-9)
    smoothed = sum(paper.official_smoothed(z, world.labels) for z in z_s)
    assert terms["supervised"].value.item() == pytest.approx(smoothed, rel=1e-9)
    assert terms["sample_mmd"].weight == 0.4


@pytest.mark.parametrize("seed", range(1, 3))
def test_the_official_cluster_level_pulls_reliable_samples_alone(paper, inputs, step, seed):
    world = inputs((0, 1, 0, 1, 1, 1), seed=seed, classes=4, target=4, scale=0.9)
    step(world, variant="official")["cluster_mmd"].value.backward()
    masked = 0
    for m in BRANCHES:
        z_s, z_t = (world.arrays[side, m, "z"] for side in ("source", "target"))
        masks = [paper.reliable(paper.softmax(z), EPS) for z in (z_s, z_t)]
        masked += int((~masks[0]).sum())
        x, y = (world.arrays[side, m, "f"] for side in ("source", "target"))

        def of_source(value, y=y, z_t=z_t, masks=masks, at=(x, y)):
            return paper.official_cluster(value, y, world.labels, z_t.argmax(1), *masks, at)

        found = world.leaves["source", m, "f"].grad.numpy()
        np.testing.assert_allclose(found, paper.gradient(of_source, x), rtol=1e-5, atol=1e-8)
        assert not found[~masks[0]].any()
    assert masked > 0


def test_plain_mmd_is_row_b(paper, inputs, step):
    world = inputs()
    terms = step(world, hardness={"enabled": False}, cid={"enabled": False})
    expected = sum(
        paper.eq1_2(world.arrays["source", m, "f"][world.domain == n], world.arrays["target", m, "f"])
        for n in (0, 1)
        for m in BRANCHES
    )
    assert "cluster_mmd" not in terms
    assert terms["sample_mmd"].value.item() == pytest.approx(expected, rel=1e-9)


def test_clusters_without_hardness_use_the_mask(paper, inputs, step):
    world = inputs()
    found = step(world, hardness={"enabled": False})["cluster_mmd"].value.item()
    expected = 0.0
    for n in (0, 1):
        mine = world.domain == n
        for m in BRANCHES:
            p_s, p_t = (
                paper.softmax(world.arrays["source", m, "z"][mine]),
                paper.softmax(world.arrays["target", m, "z"]),
            )
            masks = [paper.reliable(p, EPS).astype(float) for p in (p_s, p_t)]
            x, y = world.arrays["source", m, "f"][mine], world.arrays["target", m, "f"]
            expected += paper.eq7_8(x, y, world.labels[mine], p_t.argmax(1), 3, *masks, "all_pairs")
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("settings", [{}, {"cid": {"pairs": "one_vs_rest"}}, {"variant": "official"}])
@pytest.mark.parametrize(
    "shape",
    [{"domain": (0,), "target": 1}, {"domain": (0, 1), "target": 1}, {"domain": (0, 2), "target": 3}],
    ids=["one sample each", "one target", "a domain is missing"],
)
def test_the_smallest_batches_are_finite(inputs, step, settings, shape):
    world = inputs(**shape)
    value = total(step(world, **settings))
    value.backward()
    assert torch.isfinite(value)
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in world.leaves.values())


def test_without_a_reliable_sample_the_alignment_is_zero_and_counted(inputs, step):
    world = inputs(scale=0.01)
    terms = step(world)
    assert terms["sample_mmd"].value.item() == 0
    assert terms["cluster_mmd"].value.item() == 0
    assert terms["voting"].value.item() == 0
    counts = {"groups": 4, "groups_without_reliable": 4, "groups_without_pairs": 4, "targets": 5, "voted": 0}
    assert step.counts == counts
    total(terms).backward()
    assert world.leaves["source", "global", "f"].grad.abs().sum() == 0


def test_one_side_without_a_reliable_sample_is_enough(inputs, step):
    world = inputs()
    with torch.no_grad():
        for branch in BRANCHES:
            world.leaves["target", branch, "z"] *= 1e-3
    assert step(world)["sample_mmd"].value.item() == 0
    assert step.counts["groups_without_reliable"] == 4


def test_collapsed_features_stay_finite(inputs, step):
    world = inputs()
    with torch.no_grad():
        for (_, _, part), leaf in world.leaves.items():
            if part == "f":
                leaf.fill_(0.3)
    value = total(step(world))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(leaf.grad).all() for leaf in world.leaves.values())


def test_one_class_has_no_cluster_level(inputs, step):
    world = inputs()
    world.labels[:] = 0
    with torch.no_grad():
        for branch in BRANCHES:
            world.leaves["target", branch, "z"][:, 0] += 20
    assert step(world)["cluster_mmd"].value.item() == 0
    assert step.counts["groups_without_pairs"] == 4


def test_order_of_the_batch_does_not_matter(inputs, step):
    world, mixed = inputs((0, 0, 0, 1, 1, 1)), inputs((0, 0, 0, 1, 1, 1))
    order = np.array([3, 0, 4, 1, 5, 2])
    mixed.domain, mixed.labels = mixed.domain[order], mixed.labels[order]
    for (side, branch, part), leaf in world.leaves.items():
        if side == "source":
            mixed.leaves[side, branch, part] = leaf.detach()[order].requires_grad_()
    assert total(step(mixed)).item() == pytest.approx(total(step(world)).item(), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_aligned_in_float32(inputs, step, dtype):
    world = inputs()
    world.leaves = {key: leaf.detach().to(dtype).requires_grad_() for key, leaf in world.leaves.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = step(world)
    assert terms["sample_mmd"].value.dtype == torch.float32
    assert terms["consistency"].value.dtype == torch.float32
    reference = step(inputs())
    assert terms["sample_mmd"].value.item() == pytest.approx(reference["sample_mmd"].value.item(), rel=0.1)
