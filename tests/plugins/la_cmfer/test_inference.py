"""Rules that turn two branches into one prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fercore_la_cmfer.inference import RULES, combine, weighted_vote

from fercore.records.step import Encoded


@pytest.fixture
def logits():
    rng = np.random.default_rng(1)
    z_g, z_l = rng.normal(size=(200, 5)) * 2 - 1, rng.normal(size=(200, 5)) * 2 - 1
    z_l[:50] = z_g[:50] + rng.normal(size=(50, 5)) * 0.1
    z_g[50:80] = -np.abs(z_g[50:80])
    z_l[50:80] = -np.abs(z_l[50:80])
    return {"global": torch.tensor(z_g), "local": torch.tensor(z_l)}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_gives_probabilities(logits, rule):
    probs = combine(rule, logits)
    assert probs.shape == (200, 5)
    torch.testing.assert_close(probs.sum(1), torch.ones(200, dtype=probs.dtype))
    assert (probs >= 0).all()


def test_the_paper_takes_the_surer_branch(logits):
    probs = combine("max_prob", logits)
    for i in range(200):
        rows = [logits[b][i].softmax(0) for b in ("global", "local")]
        torch.testing.assert_close(probs[i], max(rows, key=lambda p: p.max()))


@pytest.mark.parametrize(("rule", "place"), [("max_logit", 0), ("majority", 1), ("hybrid", 2)])
def test_the_released_votes(paper, logits, rule, place):
    found = combine(rule, logits).argmax(1).tolist()
    z_g, z_l = (logits[b].numpy() for b in ("global", "local"))
    expected = [paper.official_vote([g, t, (g + t) / 2])[place] for g, t in zip(z_g, z_l, strict=True)]
    assert found == expected


def test_single_rules(logits):
    torch.testing.assert_close(combine("global", logits), logits["global"].softmax(1))
    torch.testing.assert_close(combine("local", logits), logits["local"].softmax(1))
    torch.testing.assert_close(combine("mean_logits", logits), ((logits["global"] + logits["local"]) / 2).softmax(1))


def test_rules_differ_but_for_the_majority_which_is_the_mean(logits):
    chosen = {rule: tuple(combine(rule, logits).argmax(1).tolist()) for rule in RULES}
    assert chosen.pop("majority") == chosen["mean_logits"]
    assert len(set(chosen.values())) == len(chosen)


def test_a_lone_branch_and_per_source_pairs(logits):
    torch.testing.assert_close(combine("max_logit", {"fused": logits["global"]}), logits["global"].softmax(1))
    pairs = {f"{b}_{n}": logits[b] * (n + 1) for n in (0, 1) for b in ("global", "local")}
    found = combine("max_prob", pairs)
    torch.testing.assert_close(found, weighted_vote(torch.stack(list(pairs.values()))))
    torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=found.dtype))


def test_branches_of_other_plugins_do_not_vote(logits):
    more = {**logits, "projector": torch.randn(200, 5)}
    torch.testing.assert_close(combine("max_prob", more), combine("max_prob", logits))


def test_the_hook_uses_the_setting(method, logits):
    encoded = Encoded({}, logits)
    for rule in RULES:
        torch.testing.assert_close(method(infer=rule).predict(encoded=encoded), combine(rule, logits))
