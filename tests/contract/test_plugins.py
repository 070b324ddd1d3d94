"""Every installed plugin keeps the contract of `fercore.testing`."""

from __future__ import annotations

import pytest

from fercore.config.presets import PRESETS
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.testing import RULES, check_plugin
from tests.contract.chosen import CHOSEN

METHODS = [name for name, info in installed_plugins().items() if load_class(info).kind == "method"]
ADDONS = [f"source_only+{name}" for name, info in installed_plugins().items() if load_class(info).kind == "addon"]
TRAINING = [rule for rule in RULES if rule not in ("presets", "onnx")]
"""Translating to ONNX takes longer than all others; tests/export does so for each kind of network."""


@pytest.mark.parametrize("names", [*METHODS, *ADDONS])
def test_every_preset_resolves(names):
    assert check_plugin(names, rules=["presets"]).notes["presets"] == ", ".join(PRESETS)


def test_every_distribution_has_a_plugin_that_stands_for_it():
    installed = installed_plugins()
    assert set(installed) >= CHOSEN
    assert {info.distribution for info in installed.values()} == {installed[name].distribution for name in CHOSEN}


@pytest.mark.slow
@pytest.mark.parametrize("names", [*METHODS, *ADDONS])
def test_a_plugin_keeps_the_contract(names, tmp_path):
    rules = [rule for rule in TRAINING if rule != "length" or names.rpartition("+")[2] in CHOSEN]
    assert list(check_plugin(names, rules=rules, folder=tmp_path).seconds) == rules


@pytest.mark.soak
@pytest.mark.parametrize("names", [*METHODS, *ADDONS])
def test_a_plugin_keeps_all_of_the_contract(names, tmp_path):
    assert list(check_plugin(names, rules=TRAINING, folder=tmp_path).seconds) == TRAINING
