"""Whole runs on tiny synthetic faces with few labels: state that resumes, what leads, what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble

pytestmark = pytest.mark.slow

FEW = "synthfer:wild?n=160&seed=2&labels=28"
LAYER = {
    "data": {"sources": [FEW], "target": FEW, "source_batch": 14, "target_batch": 14, "augment": "crop"},
    "train": {"steps": 6, "steps_per_epoch": 2, "checkpoint_every": 1, "ema": 0.8},
}
STATE = {
    "flexmatch": ({"p_cutoff": 0.2}, ["learnt"]),
    "freematch": ({}, ["level", "probs", "histogram"]),
    "softmatch": ({}, ["mean", "variance", "alignment.seen"]),
    "dash": ({"warmup_share": 0.3, "update_share": 0.25}, ["start", "rho"]),
    "adacm": ({"floor": 0.1}, ["levels"]),
    "adamatch": ({}, ["seen", "wanted"]),
    "mean_teacher": ({}, ["weights"]),
}


def context_of(make_context, name, settings):
    return make_context(*name.split("+"), layers=(LAYER, {name.split("+")[0]: settings} if settings else {}))


@pytest.mark.parametrize("name", STATE)
def test_state_moves_and_resumes_to_the_bit(name, make_context, tmp_path, listener, weights_of):
    settings, kept = STATE[name]
    first = context_of(make_context, name, settings)
    start = {key: tensor.clone() for key, tensor in first.model.state_dict().items() if key.startswith("parts.")}
    whole = run(first, tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(context_of(make_context, name, settings), tmp_path / "cut", listener(stop_after=4))
    again = run(context_of(make_context, name, settings), tmp_path / "cut", listener(), resume=True)
    left, right = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    for part in ("model", "average"):
        one, other = (side[part] if part == "model" else side[part]["model"] for side in (left, right))
        assert [key for key in one if not torch.equal(one[key], other[key])] == []
    for key in kept:
        full = f"parts.{name}/state.{key}"
        assert left["model"][full].shape != start[full].shape or not torch.equal(left["model"][full], start[full]), key
    assert again.target == whole.target
    assert whole.primary_metric == "balanced_accuracy"
    assert whole.label_split.per_class == {name: 4 for name in whole.target.classes}


def test_dash_begins_on_labelled_samples_alone(make_context, tmp_path, listener):
    heard = listener()
    run(context_of(make_context, "dash", {"warmup_share": 0.3}), tmp_path / "run", heard)
    assert [(r.stage, set(r.terms)) for r in heard.reports[:3]] == [
        ("warm_up", {"dash/cross_entropy"}),
        ("warm_up", {"dash/cross_entropy"}),
        ("train", {"dash/cross_entropy", "dash/consistency"}),
    ]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (refreshed,) = [line for line in lines if line["kind"] == "refresh"]
    assert refreshed["stage"] == "train"
    assert refreshed["dash/rho"] > 0


def test_dash_without_a_warm_up(make_context, tmp_path, listener):
    heard = listener()
    run(context_of(make_context, "dash", {"warmup_share": 0.0}), tmp_path / "run", heard)
    assert {r.stage for r in heard.reports} == {"train"}


def test_unlabelled_labels_change_nothing(make_context, tmp_path, listener, weights_of, monkeypatch):
    """The same run with every label of the unlabelled part wrong ends at the same weights."""
    from dataclasses import replace

    import fercore.engine.setup as setup

    loaded = setup.load_domains

    def spoilt(*args, **kwargs):
        domains = loaded(*args, **kwargs)
        return replace(
            domains, truth=(domains.truth + 1) % 7, test=domains.test.with_labels((domains.test.labels + 1) % 7)
        )

    run(context_of(make_context, "adacm", {}), tmp_path / "a", listener())
    monkeypatch.setattr(setup, "load_domains", spoilt)
    run(context_of(make_context, "adacm", {}), tmp_path / "b", listener())
    left, right = weights_of(tmp_path / "a")["model"], weights_of(tmp_path / "b")["model"]
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_two_methods_are_refused_by_both_names():
    with pytest.raises(UserInputError, match="two methods in one run: fixmatch and pseudo_label"):
        assemble(["fixmatch", "pseudo_label"], [])


def test_a_method_named_like_a_hook_takes_settings():
    resolved = assemble(["pseudo_label"], [{"pseudo_label": {"p_cutoff": 0.5}}])
    assert resolved.plugins[0].settings.p_cutoff == 0.5
    with pytest.raises(UserInputError, match="pseudo_label.p_cutof"):
        assemble(["pseudo_label"], [{"pseudo_label": {"p_cutof": 0.5}}])


def test_presets_are_those_of_the_readme(names):
    for name in names:
        paper = assemble([name], [], preset="paper").config
        assert (paper.data.size, paper.data.source_batch, paper.data.target_batch) == (224, 16, 16)
        assert (paper.optim.name, paper.optim.lr, paper.train.ema) == ("adam", 5e-4, 0.999)
        assert paper.train.steps == (16000 if name == "adacm" else 32000)
        for preset in ("small", "demo"):
            quick = assemble([name], [], preset=preset).config
            assert (quick.train.ema, quick.report.primary_metric, quick.data.augment) == (
                0.9,
                "balanced_accuracy",
                "crop",
            )
        trains = [assemble([name], [], preset=preset).config.train for preset in ("paper", "small", "demo")]
        assert {train.ema_buffers for train in trains} == {"average" if name == "adacm" else "copy"}
    assert assemble(["freematch"], [], preset="paper").plugins[0].settings.ent_loss_ratio == 0.001
    assert assemble(["freematch"], [], preset="demo").plugins[0].settings.ema_p == 0.9
    assert assemble(["freematch"], [], preset="paper").plugins[0].settings.ema_p == 0.999


@pytest.mark.parametrize("resolved", ["vat", "vat+leaf_eaf"])
def test_vat_takes_its_own_gradient_in_mixed_precision(resolved, make_context, tmp_path, listener):
    heard = listener()
    layer = {**LAYER, "train": {**LAYER["train"], "steps": 2, "precision": "bf16-mixed"}}
    run(make_context(*resolved.split("+"), layers=(layer,)), tmp_path / "run", heard)
    assert all(math.isfinite(value) for report in heard.reports for value in report.terms.values())
