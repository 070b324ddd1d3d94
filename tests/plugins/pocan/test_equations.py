"""The terms of both players against the paper's equations: values, weights and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

CLOSE = {"rtol": 1e-6, "atol": 1e-9}
SLOPE = {"rtol": 1e-4, "atol": 1e-7}


def named(terms):
    return {term.name.removeprefix("pocan/"): term for term in terms}


def total(terms):
    return sum(term.weight * term.value for term in terms)


def rows(views, labels):
    return views.reshape(-1, views.shape[-1]), np.repeat(labels, views.shape[1])


def encoder_goal(paper, step, source, target, ramp):
    """Eq 15 in NumPy, from the embeddings of both views."""
    z_s, y = rows(source, step.labels)
    z_t, guess = rows(target, step.guess)
    trusted = np.repeat(step.trusted, 2)
    w_s, w_t = paper.eq13(step.counts[0]), paper.eq13(step.counts[1])
    m_s, m_t = step.protos["source"], step.protos["target"]
    inside = paper.eq1(target, 0.7) + ramp * paper.eq2(z_t, m_t, guess, w_t, trusted)
    inside += paper.eq4(source, step.labels, 0.1) + paper.eq2(z_s, m_s, y, w_s)
    cross = paper.eq2(z_s, m_t, y, w_s) + paper.eq2(z_t, m_s, guess, w_t, trusted)
    return inside + cross + paper.eq11(z_s, z_t, m_s, m_t)


def prototype_goal(paper, step, m_s, m_t):
    """Eq 16 in NumPy, from the prototypes."""
    z_s, y = rows(step.source, step.labels)
    z_t, guess = rows(step.target, step.guess)
    own = paper.eq2(z_s, m_s, y, paper.eq13(step.counts[0]))
    own += paper.eq2(z_t, m_t, guess, paper.eq13(step.counts[1]), np.repeat(step.trusted, 2))
    return own + paper.eq10(z_s, z_t, m_s, m_t)


def test_the_encoder_minimises_equation_15(paper, step):
    one = step()
    scene = one.scene(ramp=0.25)
    found = total([*scene.in_domain(), *scene.alignment()])
    np.testing.assert_allclose(found.item(), encoder_goal(paper, one, one.source, one.target, 0.25), **CLOSE)
    found.backward()
    # Embeddings have length 1 already, where the cosine's own gradient has no part along them.
    for side in ("source", "target"):
        views = {"source": one.source, "target": one.target}

        def moved(v, side=side, views=views):
            return encoder_goal(paper, one, *{**views, side: v}.values(), 0.25)

        np.testing.assert_allclose(one.leaves[side].grad, paper.gradient(moved, views[side]), **SLOPE)


def test_the_prototypes_minimise_equation_16(paper, step):
    one = step()
    scene = one.scene()
    found = total([*scene.classification(), *scene.discrimination()])
    m_s, m_t = one.protos["source"], one.protos["target"]
    np.testing.assert_allclose(found.item(), prototype_goal(paper, one, m_s, m_t), **CLOSE)
    found.backward()
    for side, literal, at in (
        ("source", lambda v: prototype_goal(paper, one, v, m_t), m_s),
        ("target", lambda v: prototype_goal(paper, one, m_s, v), m_t),
    ):
        np.testing.assert_allclose(one.leaves[f"protos/{side}"].grad, paper.gradient(literal, at), **SLOPE)


def test_pretraining_is_equation_4_and_then_2(paper, step):
    one = step()
    scene = one.scene(classifying=True)
    np.testing.assert_allclose(scene.contrast_source().value.item(), paper.eq4(one.source, one.labels, 0.1), **CLOSE)
    z, y = rows(one.source, one.labels)
    expected = paper.eq2(z, one.protos["source"], y, paper.eq13(one.counts[0]))
    np.testing.assert_allclose(scene.source_prototypes().value.item(), expected, **CLOSE)


TABLE_3 = {
    "use_in": {"source_contrast", "source_in", "target_contrast", "target_in"},
    "use_cross": {"cross_source", "cross_target"},
    "use_adv": {"confusion"},
}


@pytest.mark.parametrize("switch", TABLE_3)
def test_a_row_of_table_3_leaves_its_terms_out(step, switch):
    whole, less = step().scene(), step().scene(**{switch: False})
    left = named([*whole.in_domain(), *whole.alignment()]).keys() - named([*less.in_domain(), *less.alignment()]).keys()
    assert left == TABLE_3[switch]
    players = named([*less.classification(), *less.discrimination()]).keys()
    discriminating = set() if switch == "use_adv" else {"discrimination"}
    assert players == {"source_prototypes", "target_prototypes"} | discriminating


def test_without_class_weights_every_class_counts_alike(paper, step):
    one = step()
    z, y = rows(one.source, one.labels)
    found = named(one.scene(class_weight="none").classification())
    np.testing.assert_allclose(found["source_prototypes"].value.item(), paper.eq2(z, one.protos["source"], y), **CLOSE)


def test_exponents_of_the_released_code_go_to_their_places(paper, step):
    one = step()
    z, y = rows(one.source, one.labels)
    z_t, guess = rows(one.target, one.guess)
    share = [np.array(c) / c.sum() for c in one.counts]
    rule = {"src": 2.0, "tgt": 1.0, "clf": 1.5}
    scene = one.scene(class_weight=rule)
    for found, expected in (
        (named(scene.in_domain())["source_in"], paper.eq2(z, one.protos["source"], y, (1 - share[0]) ** 2)),
        (
            named(scene.in_domain())["target_in"],
            paper.eq2(z_t, one.protos["target"], guess, 1 - share[1], np.repeat(one.trusted, 2)),
        ),
        (
            one.scene(class_weight=rule, classifying=True).source_prototypes(),
            paper.eq2(z, one.protos["source"], y, (1 - share[0]) ** 1.5),
        ),
    ):
        np.testing.assert_allclose(found.value.item(), expected, **CLOSE)


def test_weights_may_normalise_the_mean(paper, step):
    one = step()
    z, y = rows(one.source, one.labels)
    w = np.array(paper.eq13(one.counts[0]))
    found = named(one.scene(weight_norm="weights").classification())["source_prototypes"]
    expected = paper.eq2(z, one.protos["source"], y, w) * len(y) / w[y].sum()
    np.testing.assert_allclose(found.value.item(), expected, **CLOSE)


def test_a_bias_is_part_of_the_prototypes(paper, step):
    one = step(bias=True)
    scene = one.scene(proto={"bias": True})
    z, y = rows(one.source, one.labels)
    z_t, _ = rows(one.target, one.guess)
    more = {side: np.concatenate([rows, one.bias[side][:, None]], 1) for side, rows in one.protos.items()}
    ones = (np.concatenate([a, np.ones((len(a), 1))], 1) for a in (z, z_t))
    z1, z1_t = ones
    found = named([*scene.classification(), *scene.discrimination()])
    expected = paper.eq2(z1, more["source"], y, paper.eq13(one.counts[0]))
    np.testing.assert_allclose(found["source_prototypes"].value.item(), expected, **CLOSE)
    expected = paper.eq10(z1, z1_t, more["source"], more["target"])
    np.testing.assert_allclose(found["discrimination"].value.item(), expected, **CLOSE)


@pytest.mark.parametrize("on", [True, False])
def test_lambda_reaches_the_prototypes_only_where_asked_for(step, on):
    scene = step().scene(ramp=0.3, proto={"lambda_on_tp": on})
    assert named(scene.classification())["target_prototypes"].weight == (0.3 if on else 1.0)
    assert named(scene.in_domain())["target_in"].weight == 0.3


def test_the_sum_of_both_views_is_twice_the_mean(step):
    one, other = step().scene(), step().scene(nce={"reduction": "sum_views"})
    left, right = (named(scene.in_domain())["target_contrast"] for scene in (one, other))
    assert (left.weight, right.weight) == (1.0, 2.0)
    assert left.value == right.value


def test_the_encoder_may_stay_out_of_the_adversarial_game(step):
    scene = step().scene(adv={"on_encoder": False})
    assert "confusion" not in named(scene.alignment())
    assert "discrimination" in named(scene.discrimination())


def test_temperatures_are_settings(paper, step):
    one = step()
    found = named(one.scene(tau=0.2, tau_sup=0.4).in_domain())
    np.testing.assert_allclose(found["target_contrast"].value.item(), paper.eq1(one.target, 0.2), **CLOSE)
    np.testing.assert_allclose(found["source_contrast"].value.item(), paper.eq4(one.source, one.labels, 0.4), **CLOSE)


def test_no_trusted_sample_leaves_pseudo_labels_out(paper, step):
    one = step(trusted=(False,) * 5)
    scene = one.scene()
    encoder, players = named([*scene.in_domain(), *scene.alignment()]), named(scene.classification())
    for term in (encoder["target_in"], encoder["cross_target"], players["target_prototypes"]):
        assert term.value.item() == 0.0
    total([*scene.in_domain(), *scene.alignment(), *scene.classification()]).backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in one.leaves.values())
    for name in ("target_contrast", "confusion"):
        assert encoder[name].value.item() > 0


def test_a_single_class_and_a_batch_of_one_are_fine(step):
    one = step(sizes=(1, 1), trusted=(True,))
    scene = one.scene()
    found = named([*scene.in_domain(), *scene.alignment(), *scene.classification(), *scene.discrimination()])
    assert all(torch.isfinite(term.value) for term in found.values())
    assert found["target_contrast"].value.item() == pytest.approx(0.0)
    one = step()
    one.labels[:] = 2
    assert torch.isfinite(total(one.scene().in_domain()))
