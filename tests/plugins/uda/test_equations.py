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
    "gvb": ("gvb", {"hidden": 6}, 1.0),
    "lpl": ("lpl", {}, 0.003),
    "symnets": ("symnets", {}, 1.0),
    "dfa": ("dfa", {}, 1.0),
    "icid": ("icid", {"width": 3, "dropout": 0.0}, 1.0),
    "mstn": ("mstn", {"hidden": 6}, 0.1),
    "aglrls": ("aglrls", {"hidden": 6}, 0.5),
}
PHASES = ("fit", "part", "meet", "one_step")
CASES |= {f"{n}_{p}": (n, {"hidden": 0, "one_step": p == "one_step"}, 1.0) for n in ("mcd", "swd") for p in PHASES}
OPTIONS = {
    "cdan_joint": ("cdan", {"joint": True}),
    "cdan_plain": ("cdan", {"entropy": False}),
    "symnets": ("symnets", {"rise": RAMP}),
    **{f"{name}_{phase}": (name, {"phase": phase}) for name in ("mcd", "swd") for phase in PHASES},
}


@pytest.mark.parametrize("case", CASES)
def test_whole_loss_and_gradients(case, step, literal):
    name, settings, weight = CASES[case]
    equation, options = OPTIONS.get(case, (case, {}))
    one = step(name, settings, phase=options.get("phase", "main"))
    torch.manual_seed(5)
    total = sum(term.weight * term.value for term in one.terms().values())
    groups = one.groups()
    leaves = [leaf for members in groups.values() for leaf in members]
    found = dict(zip(map(id, leaves), torch.autograd.grad(total, leaves, allow_unused=True), strict=True))
    data = one.data()
    wanted = getattr(literal, equation)(data, **options)
    descended = wanted if isinstance(wanted, dict) else dict.fromkeys(groups, wanted)
    supervised = literal.cross_entropy(data.zx, data.labels) if one.plugin.kind == "method" else 0.0
    supervised = descended.get("supervised", supervised)
    reported = descended.get("value", descended.get("parts"))
    torch.testing.assert_close(total, supervised + weight * reported, rtol=1e-9, atol=1e-11)
    for group, members in groups.items():
        objective = supervised + weight * descended.get(group, 0.0 * data.zx.sum())
        slopes = torch.autograd.grad(objective, members, allow_unused=True, retain_graph=True) if members else ()
        for leaf, slope in zip(members, slopes, strict=True):
            ours = found[id(leaf)]
            zero = torch.zeros_like(leaf)
            both = (zero if grad is None else grad for grad in (ours, slope))
            torch.testing.assert_close(*both, rtol=1e-7, atol=1e-9)


SIDE = {"symnets", "icid", *(f"{name}_{phase}" for name in ("mcd", "swd") for phase in PHASES)}


def test_published_weights(step):
    for case in sorted(CASES.keys() - SIDE):
        name, settings, weight = CASES[case]
        term = next(term for short, term in step(name, settings).terms().items() if short != "cross_entropy")
        assert term.weight == pytest.approx(weight, rel=1e-12)


def test_star_draws_its_heads(step):
    """Two draws of one head are MCD's two heads; in evaluation both are the mean."""
    one = step("star", {"hidden": 0}, phase="part")
    head = one.model.heads["main"]
    torch.manual_seed(9)
    terms = one.terms()
    torch.manual_seed(9)
    spread = math.log(1 + math.exp(-2))
    first, zy, second, again = (
        rows @ (head.mean + spread * torch.randn_like(head.mean)).T + head.bias for rows in (one.x, one.y, one.y, one.x)
    )
    distance = (zy.softmax(1) - second.softmax(1)).abs().mean()
    torch.testing.assert_close(terms["disagreement"].value, -distance)
    for name, z in (("cross_entropy", first), ("second_cross_entropy", again)):
        torch.testing.assert_close(terms[name].value, torch.nn.functional.cross_entropy(z, one.labels))
    one.model.eval()
    assert float(one.terms()["disagreement"].value.detach()) == 0
    mean = (one.x @ head.mean.T + head.bias).softmax(1)
    torch.testing.assert_close(one.plugin.predict(one.model, one.model(one.x)), mean)


def test_both_heads_predict(step):
    one = step("mcd", {"hidden": 4, "dropout": 0.0})
    one.model.eval()
    second = one.model.parts["mcd/second"]
    wanted = (one.model.heads["main"](one.x).softmax(1) + second(one.x).softmax(1)) / 2
    torch.testing.assert_close(one.plugin.predict(one.model, one.model(one.x)), wanted)


def test_phases_of_two_heads():
    """All learn; both heads step against the distance; the rest steps towards it; one optimiser."""
    from fercore.hooks.assemble import assemble

    resolved = assemble(["mcd"], [{"mcd": {"steps": 3}}])
    (stage,) = resolved.plugins[0].plan(resolved.config)
    turns = [(p.name, p.shares, p.repeats) for p in stage.phases]
    assert turns == [("fit", None, 1), ("part", "fit", 1), ("meet", "fit", 3)]
    trained = [p.groups[0].prefixes for p in stage.phases[1:]]
    assert trained == [("heads.", "parts.mcd/second"), ("backbone.", "branches.")]
    (whole,) = assemble(["mcd"], [{"mcd": {"one_step": True}}]).plugins[0].plan(resolved.config)
    assert [p.name for p in whole.phases] == ["main"]
