"""The objective of a step against literal NumPy: value, gradients, both variants, and every edge of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

OFFICIAL = {"variant": "official"}


def literal(paper, scene, now, **settings):
    keys = ("labelled", "z"), ("weak", "z"), ("strong", "z")
    labelled, weak, strong = (now[key] for key in keys)
    return paper.eq1(labelled, scene.labels, weak, strong, at=scene.arrays["strong", "z"], **settings)


@pytest.mark.parametrize(
    ("settings", "literally"),
    [
        ({}, {}),
        ({"lambda": 0.3}, {"lambda_": 0.3}),
        ({"threshold": 0.6}, {"threshold": 0.6}),
        ({"epsilon": 0.5}, {"margin": 0.5}),
        ({"loss_weights": [1, 0.5, 0]}, {"lambda_": 0.5}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_equation_1_value_and_gradients(paper, scene, total, settings, literally, seed):
    world = scene(seed=seed)
    found = total(world, **settings)
    assert found.item() == pytest.approx(literal(paper, world, world.arrays, **literally), rel=1e-12)
    found.backward()
    for key in (("labelled", "z"), ("weak", "z")):

        def of_one(value, key=key):
            return literal(paper, world, {**world.arrays, key: value}, **literally)

        slope = paper.gradient(of_one, world.arrays[key])
        np.testing.assert_allclose(world.leaves[key].grad.numpy(), slope, rtol=1e-5, atol=1e-8)
    assert world.leaves["strong", "z"].grad is None  # the partition is a constant


def official_parts(paper, scene, thresholds, now=None):
    now, base = now or scene.arrays, scene.arrays
    z = [now[view, "z"] for view in ("weak", "weak2", "strong")]
    f = [now[view, "f"] for view in ("weak", "weak2")]
    at = [base[view, "z"] for view in ("weak", "weak2", "strong")]
    return paper.official_step(now["labelled", "z"], scene.labels, *z, *f, np.array(thresholds), at)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [3, 4, 7])
def test_the_official_variant_follows_the_released_loop(paper, scene, step, seed, classes):
    world = scene(seed=seed, classes=classes, unlabelled=8)
    thresholds = np.linspace(0.3, 0.9, classes)
    terms = step(world, thresholds=thresholds, **OFFICIAL)
    weights = {name: term.weight for name, term in terms.items()}
    assert weights == {"supervised": 0.5, "consistency": 1.0, "contrast": 0.1}
    found = [terms[name].value.item() for name in ("supervised", "consistency", "contrast")]
    np.testing.assert_allclose(found, official_parts(paper, world, thresholds), rtol=1e-10, atol=1e-12)
    assert 0 < step.pseudo.weight.sum() < 8


def test_gradients_of_the_official_variant(paper, scene, step):
    world, thresholds = scene(seed=2, unlabelled=5), np.full(5, 0.7)
    terms = step(world, thresholds=thresholds, **OFFICIAL)
    sum(term.weight * term.value for term in terms.values()).backward()

    for key in (("labelled", "z"), ("strong", "z")):

        def of_one(value, key=key):
            parts = official_parts(paper, world, thresholds, {**world.arrays, key: value})
            return 0.5 * parts[0] + parts[1] + 0.1 * parts[2]

        slope = paper.gradient(of_one, world.arrays[key])
        np.testing.assert_allclose(world.leaves[key].grad.numpy(), slope, rtol=1e-5, atol=1e-8)
    for view in ("weak", "weak2"):
        assert world.leaves[view, "z"].grad is None
        grad = world.leaves[view, "f"].grad

        def of_features(value, view=view):
            return 0.1 * official_parts(paper, world, thresholds, {**world.arrays, (view, "f"): value})[2]

        np.testing.assert_allclose(grad, paper.gradient(of_features, world.arrays[view, "f"]), rtol=1e-5, atol=1e-8)


def test_the_value_is_a_cross_entropy_times_the_share_and_the_gradient_is_everyones(scene, step):
    world = scene(seed=1, unlabelled=8)
    terms = step(world, thresholds=np.full(5, 0.75), **OFFICIAL)
    strong, guess = world.leaves["strong", "z"], step.pseudo.labels
    hard = torch.nn.functional.cross_entropy(strong, guess)
    share = step.pseudo.weight.mean()
    assert 0 < share < 1
    assert terms["consistency"].value.item() == pytest.approx((hard * share).item(), rel=1e-9)
    terms["consistency"].value.backward()
    assert (strong.grad.abs().sum(1) > 0).sum() > step.pseudo.weight.sum()


def rows(view, world):
    return world.leaves[view, "z"]


def test_cross_entropy_takes_every_unlabelled_sample(scene, step):
    world = scene()
    value = step(world, consistency="ce")["consistency"].value
    expected = torch.nn.functional.cross_entropy(rows("weak", world), rows("strong", world).argmax(1))
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_masked_cross_entropy_takes_the_confident_ones(scene, step):
    world = scene()
    value = step(world, consistency="ce", cons={"mask": True}, thresholds=np.full(5, 0.7))["consistency"].value
    chosen = rows("strong", world).softmax(1).amax(1) >= 0.7
    assert 0 < chosen.sum() < len(chosen)
    each = torch.nn.functional.cross_entropy(rows("weak", world), rows("strong", world).argmax(1), reduction="none")
    assert value.item() == pytest.approx((each * chosen).mean().item(), rel=1e-12)


def test_candidates_may_come_from_the_weak_view(paper, scene, step):
    world = scene()
    value = step(world, partition_from="weak")["consistency"].value
    pairs = zip(world.arrays["strong", "z"], paper.softmax(world.arrays["weak", "z"]), strict=True)
    assert value.item() == pytest.approx(np.mean([paper.eq14(s, paper.eq6_8(p, 0.9)) for s, p in pairs]), rel=1e-12)


def test_two_weak_views_are_scored_each(paper, scene, step):
    world = scene()
    value = step(world, weak_views=2)["consistency"].value
    sets = [paper.eq6_8(p, 0.9) for p in paper.softmax(world.arrays["strong", "z"])]
    expected = [
        paper.eq14(s, p) for view in ("weak", "weak2") for s, p in zip(world.arrays[view, "z"], sets, strict=True)
    ]
    assert value.item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_probabilities_may_be_scored(paper, scene, step):
    world = scene()
    value = step(world, score="prob")["consistency"].value
    pairs = zip(*(paper.softmax(world.arrays[view, "z"]) for view in ("weak", "strong")), strict=True)
    assert value.item() == pytest.approx(np.mean([paper.eq14(s, paper.eq6_8(p, 0.9)) for s, p in pairs]), rel=1e-12)


SWITCHES = [
    {"partition_from": "weak"},
    {"candidates": "reach_minus_1_max3"},
    {"score": "prob"},
    {"consistency": "ce"},
    {"threshold": 0.6},
    {"epsilon": 0.2},
    {"lambda": 0.5},
    {"loss_weights": [0.5, 1, 0]},
    {"weak_views": 2},
    {"cons": {"weight": "concave"}, "candidates": "reach_minus_1_max3"},
    {"cons": {"rescale": True}, "lambda": 0.7},  # alone it has the value of ce
    {"cons": {"mask": True}},
    {"eaf": {"category": False}},
    {"label_smoothing": 0.1},
    {"weak_views": 2, "loss_weights": [1, 1, 0.1]},
    {"weak_views": 2, "loss_weights": [1, 1, 0.1], "temperature": 0.5},
]


def test_every_switch_changes_the_loss(scene, total):
    found = {str(switch): total(scene(seed=5), **switch).item() for switch in SWITCHES}
    found["none"] = total(scene(seed=5)).item()
    assert len({round(value, 9) for value in found.values()}) == len(found), found


def test_without_the_category_level_there_is_no_unlabelled_term(scene, step):
    assert set(step(scene(), eaf={"category": False})) == {"supervised"}
    assert step.pseudo is None
    assert set(step(scene(), **OFFICIAL, eaf={"category": False})) == {"supervised", "contrast"}


@pytest.mark.parametrize("settings", [{}, OFFICIAL, {"consistency": "ce"}], ids=str)
@pytest.mark.parametrize("size", [1e4, -1e4, 0.0])
def test_extreme_logits_are_finite(scene, total, settings, size):
    world = scene(unlabelled=3)
    for view in ("labelled", "weak", "weak2", "strong"):
        world.arrays[view, "z"] = np.sign(world.arrays[view, "z"]) * abs(size) * (-1 if size < 0 else 1)
    value = total(world.wake(), **settings)
    value.backward()
    assert torch.isfinite(value)
    grads = [leaf.grad for leaf in world.leaves.values() if leaf.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_where_every_class_is_a_candidate_nothing_is_asked(scene, step):
    world = scene()
    term = step(world, threshold=1.0)["consistency"]
    world.arrays["strong", "z"][:] = 0.0  # equal probabilities: 0.9 needs all of five classes
    level = step(world.wake())["consistency"]
    level.value.backward()
    assert level.value.item() == 0
    assert world.leaves["weak", "z"].grad.abs().sum() == 0
    assert step.state.take() == {"candidates": 5.0, "all_candidates": 1.0, "selected": 1.0}
    assert torch.isfinite(term.value)


def test_a_loss_of_zero_is_not_rescaled(scene, step):
    world = scene()
    for view in ("weak", "weak2", "strong"):
        world.arrays[view, "z"][:] = 0.0
    terms = step(world.wake(), thresholds=np.zeros(5), **OFFICIAL)
    terms["consistency"].value.backward()
    assert terms["consistency"].value.item() == 0  # equal probabilities weigh 0
    assert torch.isfinite(world.leaves["strong", "z"].grad).all()


def test_all_confident_leaves_nothing_to_contrast(scene, step):
    world = scene()
    terms = step(world, thresholds=np.zeros(5), **OFFICIAL)
    terms["contrast"].value.backward()
    assert terms["contrast"].value.item() == 0
    assert world.leaves["weak", "f"].grad.abs().sum() == 0


def test_one_sample_that_is_not_confident_has_no_contrast(scene, step):
    world = scene()
    for view in ("weak", "weak2"):
        world.arrays[view, "z"][1:, 0] += 50
        world.arrays[view, "z"][0] = 0.0
    terms = step(world.wake(), **OFFICIAL)
    assert step.pseudo.weight.tolist() == [0.0] + [1.0] * 5
    terms["contrast"].value.backward()
    assert terms["contrast"].value.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(world.leaves["weak", "f"].grad).all()


@pytest.mark.parametrize("settings", [{}, OFFICIAL], ids=str)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_and_single_samples(scene, total, settings, classes):
    world = scene(labelled=1, unlabelled=1, classes=classes)
    value = total(world, **settings)
    value.backward()
    assert torch.isfinite(value)


def test_labels_are_those_of_the_mean_probabilities(paper, scene, step):
    world = scene(seed=3)
    step(world, thresholds=np.full(5, 0.6), **OFFICIAL)
    z = [world.arrays[view, "z"] for view in ("weak", "weak2")]
    mean = (paper.softmax(z[0]) + paper.softmax(z[1])) / 2
    assert step.pseudo.labels.tolist() == mean.argmax(1).tolist()
    assert step.pseudo.weight.tolist() == (mean.max(1) >= 0.6).astype(float).tolist()
    np.testing.assert_allclose(step.pseudo.probs, paper.softmax((z[0] + z[1]) / 2), rtol=1e-12)


def test_half_precision_logits_choose_and_score_in_float32(scene, step):
    world = scene()
    reference = step(world)["consistency"].value
    world.leaves = {key: leaf.detach().to(torch.bfloat16).requires_grad_() for key, leaf in world.leaves.items()}
    value = step(world)["consistency"].value
    assert step.pseudo.probs.dtype == torch.float32
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference.item(), rel=0.05)


def test_the_contrast_is_computed_in_full_precision(scene, step):
    world = scene(unlabelled=8, width=64)
    exact = step(world, thresholds=np.full(5, 0.99), **OFFICIAL)["contrast"].value
    world.arrays = {key: value.astype(np.float32) for key, value in world.arrays.items()}
    world.wake()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(world, thresholds=np.full(5, 0.99), **OFFICIAL)["contrast"].value
    assert found.item() == pytest.approx(exact.item(), rel=1e-5)
