"""`check_plugin` passes what keeps the contract, and names the rule that is broken."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from fercore import ops
from fercore.builtin.supervised import SourceOnly
from fercore.engine.trainer import Trainer
from fercore.errors import UserInputError
from fercore.ops import dispatch, reference
from fercore.plugin import LossTerm, Role, hookimpl
from fercore.testing import ContractError, check_plugin

THREE = {"train.steps": 6, "data.size": 16}


@pytest.fixture
def offered(monkeypatch, tmp_path_factory):
    """Offer a class as the plugin "mine", as an installed package would."""

    def offer(kind: type) -> str:
        site = tmp_path_factory.mktemp("site")
        (site / "tests_mine-1.dist-info").mkdir()
        (site / "tests_mine-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: tests-mine\nVersion: 1\n")
        (site / "tests_mine-1.dist-info/entry_points.txt").write_text("[fercore.plugins]\nmine = tests_mine:Mine\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.setitem(sys.modules, "tests_mine", types.SimpleNamespace(Mine=kind))
        return "mine"

    return offer


class Remembers(SourceOnly):
    """Counts its calls on itself."""

    @hookimpl
    def after_step(self):
        self.calls = getattr(self, "calls", 0) + 1


def trainer() -> Trainer:
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Trainer):
        frame = frame.f_back
    return frame.f_locals["self"]


class Cheats(SourceOnly):
    """Takes the labels of the target from the engine, up the stack."""

    @hookimpl
    def align(self, encoded):
        truth = trainer().context.domains.truth
        logits = encoded["source", "weak"].logits["main"]
        return [LossTerm("mine/cheat", Role.REGULARISER, logits.square().mean() * float(truth[0]), 0.1)]


class Draws(SourceOnly):
    """Draws from a generator that no checkpoint knows."""

    generator = np.random.default_rng(0)

    @hookimpl
    def align(self, encoded):
        logits = encoded["source", "weak"].logits["main"]
        return [LossTerm("mine/noise", Role.REGULARISER, logits.square().mean() * self.generator.random(), 0.1)]


class Fades(SourceOnly):
    """Goes by the length of the run and says that it does not."""

    @hookimpl
    def align(self, encoded, clock):
        logits = encoded["source", "weak"].logits["main"]
        return [LossTerm("mine/fade", Role.REGULARISER, logits.square().mean() * clock.progress, 1.0)]


class Loses(SourceOnly):
    """Predicts with a part that it says evaluation does without."""

    training_parts = ("scale",)

    @hookimpl
    def build_model(self, config, num_classes):
        model = super().build_model(config, num_classes)
        self.attach(model, nn.Linear(1, 1), "scale")
        return model

    @hookimpl
    def predict(self, model, encoded):
        return (encoded.logits["main"] * self.part(model, nn.Linear, "scale").weight[0, 0].abs()).softmax(1)


class Muddled(SourceOnly):
    """Its preset sets what nobody knows."""

    presets = {"small": {"train": {"stepps": 3}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rules", "message"),
    [
        (Remembers, ["untouched"], r"plugin mine: the plugin object changed in a run: \['calls'\]; keep what"),
        (Cheats, ["resumes"], "with other labels of the target .* is another: it looks at them"),
        (Draws, ["resumes"], "tensors differ after a resume, first .*; keep what lives past a call in buffers"),
        (Fades, ["length"], "a run made longer differs from a longer run"),
        (Loses, ["loads"], "a loaded model differs from the evaluated one by .*`training_parts`"),
    ],
)
def test_a_broken_rule_is_named(kind, rules, message, offered, tmp_path):
    with pytest.raises(ContractError, match=message):
        check_plugin(offered(kind), settings=THREE, rules=rules, folder=tmp_path)


def test_a_preset_with_an_unknown_setting_is_named(offered):
    with pytest.raises(UserInputError, match=r"unknown setting 'train.stepps'"):
        check_plugin(offered(Muddled), rules=["presets"])


@pytest.mark.slow
def test_operators_are_compared_with_their_reference(monkeypatch, tmp_path):
    kept = check_plugin("la_cmfer", rules=["reference"], folder=tmp_path / "right")
    assert kept.notes["reference"] == "2 calls in the first step"
    right = reference.mpc
    monkeypatch.setattr(reference, "mpc", lambda *given: right(*given) * 1.01)
    with pytest.raises(ContractError, match=r"la_cmfer/consistency is [\d.]+ compiled and [\d.]+ in plain torch"):
        check_plugin("la_cmfer", rules=["reference"], folder=tmp_path / "wrong")


def test_plain_torch_is_asked_for_and_counted():
    probs = torch.full((2, 3, 4), 0.25)
    with dispatch.plain_torch() as used:
        value = ops.mpc_consistency(probs, probs)
        assert ops.kernels("cpu") == {"mmd": "reference", "mpc": "reference"}
    assert used.calls == 2
    assert torch.allclose(value, ops.mpc_consistency(probs, probs))
    assert ops.kernels("cpu")["mmd"] == "cpu"


def test_wrong_names_are_one_line():
    with pytest.raises(UserInputError, match=r"unknown rule 'resume' \(check_plugin\); did you mean 'resumes'"):
        check_plugin("source_only", rules=["resume"])
    with pytest.raises(UserInputError, match="unknown plugin 'nobody'"):
        check_plugin("nobody")
