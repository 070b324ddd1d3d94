"""The whole loss of every method and its gradients against the literal equations."""

from __future__ import annotations

import math

import pytest
import torch

RAMP = 2 / (1 + math.exp(-3)) - 1
CASES = {
    "dan": ("dan", {}, 1.0),
    "dan_linear": ("dan", {"estimator": "linear"}, 1.0),
    "jan": ("jan", {}, 1.0),
    "dsan": ("dsan", {}, 0.5 * RAMP),
    "detn": ("detn", {}, 1.0),
    "ecan": ("ecan", {}, 1.0),
    "ddc": ("ddc", {}, 0.25),
    "deep_coral": ("deep_coral", {}, 10.0),
    "cmd": ("cmd", {}, 1.0),
    "afn": ("afn", {}, 0.05),
    "afn_hard": ("afn", {"kind": "hard"}, 0.05),
    "bsp": ("bsp", {}, 1e-4),
    "entropy_min": ("entropy_min", {}, 0.1),
    "bnm": ("bnm", {}, 1.0),
    "bnm_fast": ("bnm", {"fast": True}, 1.0),
    "mcc": ("mcc", {}, 1.0),
    "dann": ("dann", {"hidden": 6}, 1.0),
    "cdan": ("cdan", {"hidden": 6}, 1.0),
    "cdan_joint": ("cdan", {"hidden": 6, "entropy_norm": "joint"}, 1.0),
    "cdan_plain": ("cdan", {"hidden": 6, "entropy": False}, 1.0),
    "mada": ("mada", {"hidden": 6}, 0.3),
    "mdd": ("mdd", {"hidden": 6, "dropout": 0.0}, 1.0),
    "daln": ("daln", {}, 1.0),
}
OPTIONS = {"cdan_joint": ("cdan", {"joint": True}), "cdan_plain": ("cdan", {"entropy": False})}


@pytest.mark.parametrize("case", CASES)
def test_whole_loss_and_gradients(case, step, literal):
    name, settings, weight = CASES[case]
    one = step(name, settings)
    total = sum(term.weight * term.value for term in one.terms().values())
    groups = one.groups()
    leaves = [leaf for members in groups.values() for leaf in members]
    found = dict(zip(map(id, leaves), torch.autograd.grad(total, leaves, allow_unused=True), strict=True))
    data = one.data()
    equation, options = OPTIONS.get(case, (case, {}))
    wanted = getattr(literal, equation)(data, **options)
    descended = wanted if isinstance(wanted, dict) else dict.fromkeys(groups, wanted)
    supervised = literal.cross_entropy(data.zx, data.labels) if one.plugin.kind == "method" else 0.0
    reported = descended.get("value", descended.get("parts"))
    torch.testing.assert_close(total, supervised + weight * reported, rtol=1e-9, atol=1e-11)
    for group, members in groups.items():
        objective = supervised + weight * descended.get(group, 0.0)
        slopes = torch.autograd.grad(objective, members, allow_unused=True, retain_graph=True) if members else ()
        for leaf, slope in zip(members, slopes, strict=True):
            ours = found[id(leaf)]
            zero = torch.zeros_like(leaf)
            both = (zero if grad is None else grad for grad in (ours, slope))
            torch.testing.assert_close(*both, rtol=1e-7, atol=1e-9)


def test_published_settings(step):
    for name, settings, weight in CASES.values():
        term = next(term for short, term in step(name, settings).terms().items() if short != "cross_entropy")
        assert term.weight == pytest.approx(weight, rel=1e-12)
