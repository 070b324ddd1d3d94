"""Switches: variants, plans, views, and wrong input."""

from __future__ import annotations

import math

import pytest
import torch
from fercore_pocan.planning import stages, views
from fercore_pocan.settings import OFFICIAL, PocanSettings
from lightning_fabric import Fabric

from fercore.config import RunConfig, check_settings, merge
from fercore.engine.describe import describe
from fercore.engine.phases import PhaseRunner
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.records.plan import CropAndColour, Phase, Stage


def settings(**values):
    return check_settings(PocanSettings, values, prefix="pocan")


def by_name(found):
    return {stage.name: stage for stage in found}


def test_the_official_variant_changes_its_column_and_nothing_else():
    paper, official = (settings(variant=v).model_dump() for v in ("paper", "official"))
    changed = {key for key in paper if paper[key] != official[key]}
    assert changed == {*OFFICIAL, "variant"}
    assert official["class_weight"] == {"src": 2.0, "tgt": 1.0, "clf": 1.5}
    assert not official["adv"]["on_encoder"]
    kept = settings(variant="official", adv={"on_encoder": True}, class_weight="none")
    assert kept.adv.on_encoder
    assert kept.class_weight == "none"
    assert kept.proto.bias


def test_the_paper_preset_is_section_4_2():
    config = assemble(["pocan"], [], preset="paper").config
    found = by_name(stages(settings(**config.plugins["pocan"]), config))
    assert [(s.name, s.epochs, s.source_batch) for s in found.values()] == [
        ("pretrain", 300, 128),
        ("prototypes", 20, None),
        ("adapt", 20, None),
    ]
    first = found["pretrain"].phases[0].optimiser
    assert (first.name, first.lr, first.momentum, first.nesterov) == ("sgd", 1e-3, 0.9, False)
    assert (first.weight_decay, first.schedule, first.floor) == (1e-5, "cosine", 1e-4)
    classify = found["prototypes"].phases[0].optimiser
    assert (classify.lr, classify.schedule) == (0.01, "cosine")
    encoder, prototypes = (phase.optimiser for phase in found["adapt"].phases)
    assert (encoder.lr, encoder.schedule) == (1e-5, "constant")
    assert (prototypes.lr, prototypes.schedule, prototypes.milestones) == (1e-4, "step", (0.5,))
    assert (config.data.size, config.data.source_batch, config.data.target_batch) == (112, 64, 64)
    assert config.model.backbone == "resnet50"


@pytest.mark.parametrize("preset", ["paper", "small", "demo"])
def test_the_released_codes_optimisers(preset):
    config = assemble(["pocan"], [{"pocan": {"variant": "official"}}], preset=preset).config
    found = by_name(stages(settings(**config.plugins["pocan"]), config))
    kinds = {
        name: {
            (spec.name, spec.nesterov, spec.weight_decay, spec.decay_by_rate, spec.reset_optimizer_state)
            for spec in (phase.optimiser for phase in stage.phases)
        }
        for name, stage in found.items()
    }
    assert kinds == {
        "pretrain": {("sgdw", False, 1e-5, False, False)},
        "prototypes": {("sgd", False, 0.0, True, False)},
        "adapt": {("sgdw", False, 1e-5, False, True)},
    }
    assert found["prototypes"].source_batch == 128
    assert found["adapt"].source_batch is None


def released_walk(name, rate, steps, epoch, start, slopes):
    """A scalar under the released optimisers: Keras' SGD, or TensorFlow Addons' SGDW, which decays before it moves.

    The rate stands outside the velocity, as in torch; Keras has it inside, which is the same while the rate is.
    """
    weight, velocity, seen = start, 0.0, []
    for step in range(steps):
        if name == "adapt" and step % epoch == 0:
            velocity = 0.0  # a new optimiser
        if name != "prototypes":
            weight -= 1e-5 * weight
        velocity = 0.9 * velocity + slopes[step]
        weight -= rate(step) * velocity
        seen.append(weight)
    return seen


@pytest.mark.parametrize("name", ["pretrain", "prototypes", "adapt"])
def test_weights_walk_as_the_released_optimisers_let_them(name):
    config = assemble(["pocan"], [{"pocan": {"variant": "official"}}], preset="paper").config
    spec = by_name(stages(settings(**config.plugins["pocan"]), config))[name].phases[0].optimiser
    steps, epoch, slopes = 6, 3, [1.0, -2.0, 0.5, 3.0, 1.0, -1.0]
    model = torch.nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(2.0)
    fabric, phase = Fabric(accelerator="cpu", devices=1), Phase("main", optimiser=spec)
    run = PhaseRunner(fabric, phase, Stage(name, steps, (phase,)), model)
    walked = []
    for step, slope in enumerate(slopes):
        if step % epoch == 0:
            run.scheduled.begin_epoch()
        run.backward(fabric, slope * model(torch.ones(1, 1, dtype=torch.float64)).sum())
        run.optimizer_step(fabric)
        run.scheduled.advance()
        walked.append(model.weight.item())

    def cosine(step, first):
        return first * ((1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-4)

    rates = {"pretrain": lambda k: cosine(k, 1e-3), "prototypes": lambda k: cosine(k, 0.01), "adapt": lambda k: 1e-5}
    assert walked == pytest.approx(released_walk(name, rates[name], steps, epoch, 2.0, slopes), rel=1e-12)


def test_rates_of_the_released_code():
    config = assemble(["pocan"], [{"pocan": {"variant": "official"}}], preset="paper").config
    found = by_name(stages(settings(**config.plugins["pocan"]), config))
    _, prototypes = (phase.optimiser for phase in found["adapt"].phases)
    assert (prototypes.lr, prototypes.schedule) == (pytest.approx(1e-5), "constant")


def test_shares_divide_the_steps_of_the_run():
    config = RunConfig.model_validate({"train": {"steps": 50, "steps_per_epoch": 7}})
    given = {"unit": "share", "pretrain": 0.5, "prototypes": 0.001, "adapt": 0.26}
    found = stages(settings(stages=given, alternate="epoch"), config)
    assert [(s.name, s.steps, s.steps_per_epoch) for s in found] == [
        ("pretrain", 25, 7),
        ("prototypes", 1, 7),
        ("adapt", 13, 7),
    ]
    assert [s.alternating for s in found] == ["step", "step", "epoch"]


def test_stages_without_a_length_have_neither_plan_nor_views():
    given = settings(stages={"pretrain": 0, "adapt": 0})
    assert [stage.name for stage in stages(given, RunConfig())] == ["prototypes"]
    assert {view.stages for view in views(given)} == {("prototypes",)}


def test_views_are_two_of_each_side():
    found = views(settings())
    wanted = {
        "pretrain": [("source", "pretrain"), ("source", "pretrain2")],
        "prototypes": [("source", "plain")],
        "adapt": [(side, name) for side in ("source", "target") for name in ("adapt", "adapt2")],
    }
    for stage, expected in wanted.items():
        assert [(view.side, view.name) for view in found if view.serves(stage)] == expected
    kinds = {view.name: view.transform for view in found}
    assert kinds["pretrain"] == CropAndColour(area=(0.2, 1.0))
    assert kinds["adapt"] == CropAndColour(area=(0.8, 0.95), ratio=(1.0, 1.0))
    gentle = views(settings(aug={"kind": "weak"}))
    assert {v.transform for v in gentle} == {"none", "weak"}
    assert {v.name for v in gentle if v.serves("adapt")} == {"weak", "weak2"}
    flipped = {v.transform.upside_down_chance for v in views(settings(aug={"vflip": True})) if v.name != "plain"}
    assert flipped == {0.5}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"use_inn": False}, r"unknown setting 'pocan.use_inn'.*pocan.use_in"),
        ({"tau": 0}, "setting pocan.tau = 0: input should be greater than 0"),
        ({"beta": -1}, "pocan.beta"),
        ({"sgdw_decay": 1}, "pocan.sgdw_decay"),
        ({"use_in": False, "use_cross": False, "use_adv": False}, "nothing is left for the encoder"),
        ({"use_in": False, "use_cross": False, "adv": {"on_encoder": False}}, "nothing is left for the encoder"),
        ({"stages": {"pretrain": 0.5}}, "count whole epochs"),
        ({"stages": {"prototypes": 0}}, "pocan.stages.prototypes"),
        ({"aug": {"adapt_area": [0.9, 0.8]}}, "two rising shares"),
        ({"network": {"grid": 2}}, "network.grid needs network.reduction"),
        ({"class_weight": {"source": 2}}, "class_weight"),
        ({"lambda": {"granularity": "batch"}}, "pocan.lambda.granularity"),
    ],
)
def test_wrong_settings_are_one_clear_line(wrong, message):
    with pytest.raises(UserInputError, match=message) as caught:
        settings(**wrong)
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_the_source_is_refused_before_training(tiny):
    layer = merge(tiny, {"pocan": {"stages": {"unit": "share", "pretrain_batch": 500}}})
    context = build_context(assemble(["pocan"], [layer]))
    with pytest.raises(UserInputError, match="batch larger than a domain"):
        context.loader(context.stages[0])


@pytest.mark.parametrize("classes", [["happiness", "sadness", "neutral"]])
def test_classes_are_those_the_domains_share(tiny, classes):
    layer = merge(tiny, {"data": {"classes": classes}})
    context = build_context(assemble(["pocan"], [layer]))
    assert context.model.heads["source"].out_features == len(classes)
    assert len(context.model.parts["pocan/state"].source_counts) == len(classes)


def test_a_batch_of_a_later_stage_is_checked_before_the_first(tiny):
    layer = merge(tiny, {"data": {"target_batch": 500}, "pocan": {"stages": {"unit": "share"}}})
    context = build_context(assemble(["pocan"], [layer]))
    with pytest.raises(UserInputError, match="500 samples a step from target"):
        describe(context)
