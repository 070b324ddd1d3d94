"""Every installed plugin keeps the contract of `fercore.testing`."""

from __future__ import annotations

import pytest

from fercore.config.presets import PRESETS
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.testing import RULES, check_plugin

METHODS = [name for name, info in installed_plugins().items() if load_class(info).kind == "method"]
ADDONS = [f"source_only+{name}" for name, info in installed_plugins().items() if load_class(info).kind == "addon"]
TRAINING = [rule for rule in RULES if rule not in ("presets", "onnx")]
"""Translating to ONNX takes longer than all others; tests/export does so for each kind of network."""


@pytest.mark.parametrize("names", [*METHODS, *ADDONS])
def test_every_preset_resolves(names):
    assert check_plugin(names, rules=["presets"]).notes["presets"] == ", ".join(PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize("names", [*METHODS, *ADDONS])
def test_a_plugin_keeps_the_contract(names, tmp_path):
    assert list(check_plugin(names, rules=TRAINING, folder=tmp_path).seconds) == TRAINING
