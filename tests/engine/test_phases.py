from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric import Fabric
from timm.optim.sgdw import SGDW
from torch import nn

from fercore.engine.phases import PhaseRunner, assign, optimisers_of, own_steps, rate_factor, runners_of
from fercore.hooks.checks import HookError
from fercore.records.plan import OptimiserSpec, ParamGroup, Phase, Stage


def network():
    return nn.ModuleDict(
        {"backbone": nn.Linear(2, 2), "heads": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})}
    )


def runner(phase, model, steps=10):
    fabric = Fabric(accelerator="cpu", devices=1)
    return fabric, PhaseRunner(fabric, phase, Stage("train", steps, (phase,)), model)


def descend(fabric, run, total):
    run.backward(fabric, total)
    run.optimizer_step(fabric)


def test_the_longest_prefix_wins():
    model = network()
    named = dict(model.named_parameters())
    groups = (ParamGroup(("",)), ParamGroup(("heads.",)), ParamGroup(("heads.a.", "backbone.bias")))
    found = [{name for name, p in named.items() if any(p is q for q in assign(named, groups, g))} for g in groups]
    assert found == [
        {"backbone.weight"},
        {"heads.b.weight", "heads.b.bias"},
        {"heads.a.weight", "heads.a.bias", "backbone.bias"},
    ]


def test_group_settings_reach_the_optimiser():
    phase = Phase(
        "main", (ParamGroup(("backbone.",), 0.1, 0.0), ParamGroup(("",))), OptimiserSpec(lr=0.5, schedule="constant")
    )
    _, run = runner(phase, network())
    assert run.learning_rates() == [0.05, 0.5]
    assert [group["weight_decay"] for group in run.scheduled.optimiser.param_groups] == [0.0, 1e-4]


def test_parameters_outside_the_phase_stay_frozen_and_come_back():
    model = network()
    phase = Phase("heads", (ParamGroup(("heads.",)),), OptimiserSpec(lr=0.1))
    fabric, run = runner(phase, model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run.activate()
    descend(fabric, run, model["heads"]["a"](model["backbone"](torch.ones(1, 2))).sum())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"heads.a.weight", "heads.a.bias"}
    assert not model["backbone"].weight.requires_grad
    run.release()
    assert all(p.requires_grad for p in model.parameters())


def test_a_phase_without_parameters_is_an_error():
    with pytest.raises(HookError, match="trains no parameter"):
        runner(Phase("main", (ParamGroup(("nothing.",)),)), network())


def adversarial(optimiser):
    """The three phases of maximum classifier discrepancy (Saito et al., CVPR 2018, Section 3.3)."""
    return (
        Phase("fit", optimiser=optimiser),
        Phase("max", (ParamGroup(("heads.",)),), shares="fit"),
        Phase("min", (ParamGroup(("backbone.",)),), shares="fit", repeats=4),
    )


@pytest.mark.parametrize("name", ["sgd", "adam", "sgdw"])
def test_phases_that_share_an_optimiser_are_one_optimiser_of_each_part(name):
    """The authors keep one optimiser of the backbone and one of both heads; moments go through all their steps."""
    torch.manual_seed(0)
    spec = OptimiserSpec(name, lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.01, schedule="linear")
    model, phases = network().double(), adversarial(spec)
    twin = network().double()
    twin.load_state_dict(model.state_dict())
    settings = {"sgd": {"momentum": 0.9}, "adam": {}, "sgdw": {"momentum": 0.9}}[name]
    own = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "sgdw": SGDW}[name]
    backbone, heads = (own(twin[part].parameters(), lr=0.05, weight_decay=0.01, **settings) for part in twin)
    fabric, images = Fabric(accelerator="cpu", devices=1, precision="64-true"), torch.randn(3, 4, 2).double()
    runners = runners_of(fabric, Stage("train", 3, phases), model)
    assert len(optimisers_of(runners)) == 1

    def losses(net, x):
        shared = net["backbone"](x).relu()
        one, two = (net["heads"][head](shared) for head in "ab")
        gap = (one.softmax(1) - two.softmax(1)).abs().mean()
        supervised = one.logsumexp(1).mean() + two.square().mean()
        return {"fit": supervised, "max": supervised - gap, "min": gap}

    def literal(x, which, *optimisers):
        twin.zero_grad()
        losses(twin, x)[which].backward()
        for optimiser in optimisers:
            optimiser.step()

    for step, x in enumerate(images):
        for group in (*backbone.param_groups, *heads.param_groups):
            group["lr"] = 0.05 * (1 - step / 3)
        literal(x, "fit", backbone, heads)
        literal(x, "max", heads)
        for _ in range(4):
            literal(x, "min", backbone)
        for run in runners:
            assert run.learning_rates() == pytest.approx([0.05 * (1 - step / 3)])
            for _ in range(run.repeats):
                run.activate()
                descend(fabric, run, losses(model, x)[run.name])
        runners[0].scheduled.advance()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_a_phase_trains_what_the_optimiser_it_shares_holds():
    heads = Phase("heads", (ParamGroup(("heads.",)),))
    for prefixes, message in ((("",), "outside the optimiser it shares"), (("nothing.",), "trains no parameter")):
        phases = (heads, Phase("rest", (ParamGroup(prefixes),), shares="heads"))
        with pytest.raises(HookError, match=message):
            runners_of(Fabric(accelerator="cpu", devices=1), Stage("train", 1, phases), network())


def test_a_shared_schedule_goes_by_the_batches_of_all_its_phases():
    one, two, own = Phase("one"), Phase("two", shares="one"), Phase("own")
    turns = Stage("train", 30, (one, two, own), alternating="epoch")
    assert [own_steps(turns, phase) for phase in (one, own)] == [20, 10]
    assert own_steps(Stage("train", 30, (one, two, own)), one) == 30


def test_gradients_are_clipped():
    model = nn.Linear(2, 1)
    phase = Phase(
        "main", optimiser=OptimiserSpec(lr=1.0, momentum=0.0, weight_decay=0.0, schedule="constant"), clip_grad_norm=0.5
    )
    fabric, run = runner(phase, model)
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    descend(fabric, run, 100 * model(torch.ones(1, 2)).sum())
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - before
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("spec", "step", "expected"),
    [
        (OptimiserSpec(schedule="inverse_decay", max_steps=10000), 0, 1.0),
        (OptimiserSpec(schedule="inverse_decay", max_steps=10000), 5000, 6**-0.75),
        (OptimiserSpec(schedule="inverse_decay", max_steps=10000), 20000, 11**-0.75),
        (OptimiserSpec(schedule="cosine"), 50, 0.5),
        (OptimiserSpec(schedule="cosine"), 25, 0.5 * (1 + math.cos(math.pi / 4))),
        (OptimiserSpec(schedule="linear"), 75, 0.25),
        (OptimiserSpec(schedule="linear", floor=0.2), 75, 0.4),
        (OptimiserSpec(schedule="cosine", floor=0.2), 50, 0.6),
        (OptimiserSpec(schedule="cosine", floor=0.2), 200, 0.2),
        (OptimiserSpec(schedule="step", milestones=(0.5, 0.75)), 49, 1.0),
        (OptimiserSpec(schedule="step", milestones=(0.5, 0.75)), 50, 0.1),
        (OptimiserSpec(schedule="step", milestones=(0.5, 0.75), drop=0.5), 80, 0.25),
        (OptimiserSpec(schedule="constant", warmup_steps=4), 1, 0.4),
        (OptimiserSpec(schedule="constant", warmup_steps=4), 9, 1.0),
    ],
)
def test_schedules(spec, step, expected):
    assert rate_factor(spec, 100)(step) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["sgd", "sgdw", "adam", "adamw"])
def test_optimiser_and_schedule_resume_to_the_bit(name):
    def advance(fabric, run, model, steps):
        for _ in range(steps):
            descend(fabric, run, model(torch.ones(3, 2)).pow(2).sum())
            run.scheduled.advance()

    torch.manual_seed(0)
    phase = Phase("main", optimiser=OptimiserSpec(name=name, lr=0.01, warmup_steps=3))
    model = nn.Linear(2, 2)
    fabric, run = runner(phase, model)
    advance(fabric, run, model, 4)
    saved, weights = run.scheduled.state_dict(), {key: value.clone() for key, value in model.state_dict().items()}
    saved = torch.load(_dump(saved), weights_only=True)
    advance(fabric, run, model, 4)
    other = nn.Linear(2, 2)
    other.load_state_dict(weights)
    fabric2, run2 = runner(phase, other)
    run2.scheduled.load_state_dict(saved)
    advance(fabric2, run2, other, 4)
    assert torch.equal(model.weight, other.weight)
    assert run.learning_rates() == run2.learning_rates()


def test_sgdw_shrinks_weights_outside_the_momentum():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    spec = OptimiserSpec("sgdw", lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.5, schedule="constant")
    fabric, run = runner(Phase("main", optimiser=spec), model)
    weight, velocity = 2.0, 0.0
    for _ in range(3):
        descend(fabric, run, model(torch.ones(1, 1)).sum())
        velocity = 0.9 * velocity + 1.0
        weight = weight * (1 - 0.1 * 0.5) - 0.1 * velocity
        assert model.weight.item() == pytest.approx(weight)


def test_sgdw_shrinks_weights_by_the_decay_itself_where_asked():
    """TensorFlow Addons' SGDW under a falling rate, by hand."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(2.0)
    spec = OptimiserSpec(
        "sgdw", lr=0.1, momentum=0.9, nesterov=False, weight_decay=0.01, decay_by_rate=False, schedule="cosine"
    )
    fabric, run = runner(Phase("main", optimiser=spec), model)
    weight, velocity = 2.0, 0.0
    for _ in range(3):
        (rate,) = run.learning_rates()
        descend(fabric, run, model(torch.ones(1, 1, dtype=torch.float64)).sum())
        run.scheduled.advance()
        weight *= 1 - 0.01
        velocity = 0.9 * velocity + 1.0
        weight -= rate * velocity
        assert model.weight.item() == pytest.approx(weight, rel=1e-12)
    assert rate < 0.1


@pytest.mark.parametrize("fresh", [True, False])
def test_momentum_is_forgotten_at_an_epoch_where_asked_for(fresh):
    model = nn.Linear(1, 1, bias=False)
    spec = OptimiserSpec(
        lr=0.1, momentum=0.5, nesterov=False, weight_decay=0.0, schedule="constant", reset_optimizer_state=fresh
    )
    fabric, run = runner(Phase("main", optimiser=spec), model)
    moves = []
    for _ in range(2):
        run.scheduled.begin_epoch()
        before = model.weight.item()
        descend(fabric, run, model(torch.ones(1, 1)).sum())
        moves.append(before - model.weight.item())
    assert moves == pytest.approx([0.1, 0.1 if fresh else 0.15])


def _dump(state):
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("name", ["sgd", "sgdw", "adam", "adamw"])
def test_a_fused_optimiser_takes_the_same_steps(name):
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model, phase = network(), Phase("main", (ParamGroup(("",)),), OptimiserSpec(name=name, lr=0.1))
        fabric = Fabric(accelerator="cpu", devices=1)
        run = PhaseRunner(fabric, phase, Stage("train", 10, (phase,)), model, fused=fused)
        for _ in range(3):
            run.activate()
            descend(fabric, run, sum(p.square().sum() for p in model.parameters()))
        assert bool(run.scheduled.optimiser.param_groups[0].get("fused")) == (fused and name != "sgdw")
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
