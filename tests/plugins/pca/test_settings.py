"""Switches of sections 5 and 6, variants, and what is refused."""

from __future__ import annotations

import pytest
from fercore_pca.plugin import Pca, PcaIfer
from fercore_pca.settings import PcaSettings

from fercore.config import check_settings, merge, parse_assignment
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble

TABLE_2 = {
    # cpt.on, iga.on: prompted, weights, rule, probe
    (False, False): (False, (0.5, 0.0), "cls", "zero_shot"),
    (True, False): (True, (0.5, 0.0), "cls", None),
    (False, True): (False, (0.0, 0.5), "iga", None),
    (True, True): (True, (0.5, 0.5), "weighted", None),
}


@pytest.mark.parametrize(("cpt", "iga"), TABLE_2)
def test_switches_of_table_2(cpt, iga):
    settings = PcaSettings.model_validate({"cpt": {"on": cpt}, "iga": {"on": iga}})
    found = (settings.prompted, settings.weights, settings.rule, settings.probe)
    assert found == TABLE_2[cpt, iga]


@pytest.mark.parametrize("iga", [True, False])
def test_no_prompt_is_cpt_off(iga):
    none, off = (
        PcaSettings.model_validate({**how, "iga": {"on": iga}})
        for how in ({"prompt": {"k": 0}}, {"cpt": {"on": False}})
    )
    for name in ("prompted", "weights", "rule", "probe"):
        assert getattr(none, name) == getattr(off, name)


def test_defaults_are_those_of_section_6():
    settings = PcaSettings()
    assert settings.clip.model == "ViT-B-16"
    assert (settings.logit_scale, settings.text_pool, settings.prompt.init) == ("clip", "eot", "normal")
    assert (settings.prompt.pos, settings.prompt.depth, settings.prompt.k, settings.prompt.std) == (
        "after_patches",
        9,
        2,
        0.02,
    )
    assert (settings.iga.score, settings.iga.beta, settings.iga.eps, settings.iga.norm) == (
        "cosine",
        1.0,
        10.0,
        "layer",
    )
    assert (settings.lambda1, settings.lambda2, settings.infer) == (0.5, 0.5, "weighted")
    assert (settings.bank.n, settings.bank.empty, settings.bank.refresh) == (5, "text", "none")
    assert (settings.image_encoder, settings.rn.attnpool_prompts) == ("shared", False)


def test_the_variant_is_maples_and_pdas_code_and_what_is_given_stays():
    settings = PcaSettings.model_validate({"variant": "maple_pda", "iga": {"beta": 0.5}})
    assert (settings.prompt.init, settings.prompt.pos) == ("words", "after_patches")
    assert (settings.iga.score, settings.iga.beta, settings.iga.norm) == ("sum_logits", 0.5, "batch")
    assert (settings.lambda1, settings.lambda2, settings.infer) == (1.0, 1.0, "pda")
    assert (settings.mean, PcaSettings().mean) == ("sides", "samples")
    assert (settings.target.mode, settings.target.threshold, settings.bank.rule) == ("pseudo", 0.9, "prediction")


REFUSED = {
    "iga.eps=0": "greater than 0",
    "iga.eps=-1": "greater than 0",
    "prompt.k=-1": "greater than or equal to 0",
    "bank.n=0": "greater than or equal to 1",
    "bank.empty=zero": "'text' or 'mask'",
    "logit_scale=2": "'clip' or 1",
    "text.template=face": "{}",
    "aug.area=[0.5, 0.1]": "rising",
    "prompt.init=words prompt.k=5": "four words",
    "epochs=2 warmup.epochs=2": "less than epochs",
    "lambda1=0 iga.on=false": "no loss",
    "lambda2=0 cpt.on=false": "no loss",
    "iga.epsilon=3": "unknown setting 'pca_ifer.iga.epsilon'",
    "iga.eps=inf": "finite",
    "iga.hidden=70000": "less than or equal to 65536",
    "bank.n=1000000000": "less than or equal to 10000",
    "lambda1=inf": "finite",
    "lambda2=inf": "finite",
    "prompt.std=inf": "finite",
    "warmup.lr=inf": "finite",
    "prompt.depth=0": "greater than or equal to 1",
    "target.threshold=1.5": "less than or equal to 1",
    "text.words.angr=rage": "did you mean 'anger'",
    "text.words.anger=''": "calls 'anger' nothing",
}


@pytest.mark.parametrize("switches", REFUSED)
def test_wrong_settings_are_one_clear_line(switches):
    values = {}
    for switch in switches.split(" ") if "[" not in switches else [switches]:
        values = merge(values, parse_assignment(switch))
    with pytest.raises(UserInputError) as error:
        check_settings(PcaSettings, values, prefix="pca_ifer")
    assert REFUSED[switches] in str(error.value)
    assert "\n" not in str(error.value)


def test_the_alias_is_the_same_plugin_with_the_same_presets():
    assert issubclass(Pca, PcaIfer)
    for preset in ("demo", "small", "paper"):
        long, short = (assemble([name], [], preset=preset).config for name in ("pca_ifer", "pca"))
        assert long.plugins["pca_ifer"] == short.plugins["pca"]
        assert long.optim == short.optim
        assert long.data == short.data


def test_the_paper_preset_is_section_3a():
    config = assemble(["pca_ifer"], [], preset="paper").config
    optim, own = config.optim, config.plugins["pca_ifer"]
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay, optim.schedule) == (
        "sgd",
        3e-3,
        0.9,
        5e-4,
        "cosine",
    )
    assert (config.data.size, config.data.source_batch, own["epochs"]) == (224, 32, 30)
    assert own["clip"]["model"] == "ViT-B-16"
    assert (own["warmup"], own["aug"]["kind"]) == ({"epochs": 1, "lr": 1e-5}, "crop")


def test_references_keep_their_own_prompts_whatever_else_is_set():
    coop = assemble(["coop"], [{"coop": {"prompt": {"k": 4}}}]).plugins[0].pca_settings.prompt
    assert (coop.k, coop.depth, coop.visual) == (4, 1, False)
    maple = assemble(["maple"], [{"maple": {"prompt": {"depth": 3}}}]).plugins[0].pca_settings.prompt
    assert (maple.k, maple.depth, maple.visual, maple.init) == (2, 3, True, "words")


def test_labels_that_were_promised_and_are_not_there(context):
    bare = {"data": {"target": "synthfer:wild?n=112&seed=2"}}
    for mode in ("shots", "fraction"):
        with pytest.raises(UserInputError, match="no labelled target sample") as error:
            context("pca_ifer", bare, target={"mode": mode})
        assert "shots=5" in str(error.value)


@pytest.mark.parametrize(("option", "mode"), [("shots=1", "fraction"), ("fraction=0.2", "shots")])
def test_a_mode_that_the_target_contradicts(context, option, mode):
    layer = {"data": {"target": f"synthfer:wild?n=112&seed=2&{option}"}}
    with pytest.raises(UserInputError, match=rf"target.mode is '{mode}', and the target has \?{option.split('=')[0]}="):
        context("pca_ifer", layer, target={"mode": mode})
    context("pca_ifer", layer, target={"mode": option.split("=")[0]})


IDLE = {
    "rn.attnpool_prompts": ({"rn": {"attnpool_prompts": True}}, True),
    "per_domain_prompts": ({"clip": {"model": "tiny-rn"}, "image_encoder": "per_domain_prompts"}, True),
    "for it": (
        {"clip": {"model": "tiny-rn"}, "image_encoder": "per_domain_prompts", "rn": {"attnpool_prompts": True}},
        False,
    ),
    "no prompts": ({"image_encoder": "per_domain_prompts", "cpt": {"on": False}}, False),
}


@pytest.mark.parametrize("words", IDLE)
def test_settings_that_change_nothing_are_said(context, caplog, words):
    settings, said = IDLE[words]
    context("pca_ifer", **settings)
    assert (words in caplog.text) == said


def test_no_labelled_target_sample_is_said(context, caplog):
    context("pca_ifer", {"data": {"target": "synthfer:wild?n=112&seed=2"}})
    assert "no labelled target sample" in caplog.text


@pytest.mark.parametrize("name", ["pca_ifer", "pca"])
def test_an_unknown_model_names_setting_and_nearest(tiny, name):
    with pytest.raises(UserInputError, match=rf"\({name}.clip.model\); did you mean 'ViT-B-16'"):
        build_context(assemble([name], [tiny, {name: {"clip": {"model": "ViT-B-61"}}}]))
