"""Every switch is accepted, refuses nonsense, and changes what it should."""

from __future__ import annotations

import re

import pytest
from fercore_la_cmfer.plugin import LaCmfer, resolve_alpha
from fercore_la_cmfer.settings import LaCmferSettings

from fercore.config import build_config, check_settings
from fercore.config.presets import PRESETS
from fercore.data.domains.dataset_info import dataset_info
from fercore.data.spec import parse_spec
from fercore.datasets.protocols import load_protocol, protocol_names
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble

LOSS_SWITCHES = [
    {"variant": "official"},
    {"align": {"kind": "none"}},
    {"align": {"num_kernels": 3}},
    {"align": {"multiplier": 3.0}},
    {"hardness": {"enabled": False}},
    {"hardness": {"measure": "logit_ms"}},
    {"hardness": {"require_match": True}},
    {"hardness": {"inv_batch": True}},
    {"cid": {"enabled": False}},
    {"cid": {"weighted": False}},
    {"cid": {"pairs": "one_vs_rest"}},
    {"mcc": {"input": "logit"}},
    {"mcc": {"form": "offdiag"}},
    {"consistency": "kl"},
    {"consistency": "l1"},
    {"consistency": "mse"},
    {"consistency": "none"},
    {"pseudo_label": {"scheme": "separate"}},
    {"pseudo_label": {"scheme": "none"}},
    {"mvv": {"norm": "selected"}},
    {"label_smoothing": 0.1},
    {"source_batch": "mixed"},
    {"inter_reduce": "mean"},
    {"alpha": 0.7},
    {"beta": 0.9},
    {"gamma": 0.9},
    {"lambda": 0.5},
    {"eps": 0.6},
    {"tau": 0.5},
]


@pytest.mark.parametrize("switch", LOSS_SWITCHES, ids=str)
def test_every_switch_changes_the_loss(inputs, step, switch):
    def total(**settings):
        world = inputs((0, 0, 0, 1, 1, 1, 1), target=7, classes=4, seed=4)
        terms = step(world, **{"tau": 0.7, **settings})
        return sum(term.weight * term.value.item() for term in terms.values())

    assert abs(total(**switch) - total()) > 1e-6


@pytest.mark.parametrize(
    ("target", "alpha", "why"),
    [
        ("fer2013:/d/fer2013.csv", 0.4, "read as 'fer2013'"),
        ("affectnet:/d", 0.4, "read as 'affectnet'"),
        ("lacmfer:/d?domain=fer2013", 0.4, "read as 'fer2013'"),
        ("lacmfer:/d?domain=aff&transductive=true", 0.4, "read as 'aff'"),
        ("cdfer:/d?dataset=fer2013", 0.4, "read as 'fer2013'"),
        ("lacmfer:/d?domain=raf", 0.1, "read as 'raf'"),
        ("rafdb:/d", 0.1, "read as 'rafdb'"),
        ("folder:/fer2013", 0.1, "read as 'folder'.*If it is one of them set alpha=0.4"),
        ("list:/fer2013/train.txt", 0.1, "read as 'list'"),
        ("synthfer:wild?n=70", 0.1, "^$"),
    ],
)
def test_alpha_follows_the_dataset_of_the_target_and_says_so(target, alpha, why):
    target = dataset_info(parse_spec(target), 9)
    found, reason = resolve_alpha(LaCmferSettings(), target)
    assert found == alpha
    assert re.search(why, reason)
    assert resolve_alpha(LaCmferSettings(alpha=0.25), target) == (0.25, "")
    assert resolve_alpha(LaCmferSettings(variant="official"), target) == (0.4, "")


def test_the_choice_of_alpha_is_one_line(build, caplog):
    _, model = build({"data": {"target": "folder:/faces"}})
    assert model.parts["la_cmfer/state"].alpha == 0.1
    (record,) = caplog.records
    assert record.getMessage().startswith("la_cmfer.alpha = 0.1: the target is read as 'folder'; section 4.1")
    caplog.clear()
    _, model = build({"data": {"target": "folder:/faces"}}, alpha=0.4)
    assert model.parts["la_cmfer/state"].alpha == 0.4
    assert not caplog.records


HARD = [name for name in protocol_names() if name.endswith(("to_fer2013", "to_affectnet"))]


def test_protocols_carry_the_papers_alpha():
    assert len(HARD) == 10
    for name in protocol_names():
        methods = load_protocol(name).methods
        assert methods == ({"la_cmfer": {"alpha": 0.4}} if name in HARD else {})
    protocol = load_protocol("la_cmfer_lists/to_fer2013")
    layer = {"methods": protocol.methods}
    resolved = assemble(["la_cmfer"], [layer], preset="paper")
    assert resolved.plugins[0].settings.alpha == 0.4
    assert assemble(["la_cmfer"], [layer, {"la_cmfer": {"alpha": 0.2}}]).plugins[0].settings.alpha == 0.2
    assert set(assemble(["source_only"], [layer]).config.plugins) == {"source_only"}


def test_the_official_variant_sets_defaults_only():
    official = LaCmferSettings.model_validate({"variant": "official", "alpha": "auto", "mcc": {"input": "prob"}})
    assert (official.alpha, official.mcc.input, official.mcc.form) == ("auto", "prob", "offdiag")
    assert (official.label_smoothing, official.source_batch, official.infer) == (0.1, "mixed", "max_logit")
    assert (official.hardness.measure, official.hardness.require_match) == ("logit_ms", True)
    assert (official.cid.weighted, official.mvv.norm) == (False, "selected")
    assert (official.local.block, official.local.share) == ("cbam", "column")
    assert (official.cbam.residual, official.cbam.gate, official.cbam.gate_norm) == (True, 49, False)
    plain = LaCmferSettings()
    assert (plain.cbam.residual, plain.cbam.gate, plain.cbam.gate_norm) == (False, 7, True)
    assert (plain.mcc.input, plain.mcc.form, plain.hardness.measure) == ("prob", "abs", "prob_l2")


def test_settings_survive_being_written_down():
    settings = LaCmferSettings.model_validate({"variant": "official", "lambda": 0.04, "mvv": {"norm": "batch"}})
    written = settings.model_dump(mode="json")
    assert written["lambda"] == 0.04
    assert LaCmferSettings.model_validate(written) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lamda": 0.1}, "unknown setting 'la_cmfer.lamda'.*did you mean 'la_cmfer.lambda"),
        ({"mcc": {"inputs": "prob"}}, "unknown setting 'la_cmfer.mcc.inputs'.*did you mean 'la_cmfer.mcc.input'"),
        ({"consistency": "mcd"}, "la_cmfer.consistency = 'mcd'"),
        ({"infer": "best_of_six"}, "best_of_six picks a rule by the target's test labels"),
        ({"alpha": -1}, "alpha must be 'auto' or at least 0"),
        ({"eps": 1.5}, "la_cmfer.eps = 1.5"),
        ({"network": {"widths": [8], "depths": [1, 1]}}, "one positive number for each stage"),
    ],
)
def test_wrong_settings_are_one_clear_line(values, message):
    with pytest.raises(UserInputError, match=message):
        check_settings(LaCmferSettings, values, prefix="la_cmfer")


@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_presets_are_layers_of_settings(preset):
    config = build_config([PRESETS[preset], LaCmfer.presets[preset]], ["la_cmfer"])
    check_settings(LaCmferSettings, config.plugins.get("la_cmfer", {}), prefix="la_cmfer")


def test_the_paper_preset_is_the_published_schedule():
    config = build_config([PRESETS["paper"], LaCmfer.presets["paper"]], ["la_cmfer"])
    optim = config.optim
    assert (optim.name, optim.lr, optim.backbone_multiplier, optim.momentum, optim.nesterov) == (
        "sgd",
        0.01,
        0.1,
        0.9,
        True,
    )
    assert (optim.weight_decay, optim.schedule, optim.schedule_steps, optim.warmup_steps) == (
        1e-4,
        "inverse_decay",
        10000,
        0,
    )
    assert (config.train.steps, config.data.size, config.data.target_batch) == (20000, 224, 128)
    five = config.data.model_copy(update={"sources": tuple("abcde")})
    assert (five.source_step, five.source_step // 5) == (640, 128)
