from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fercore.config import ModelSettings
from fercore.errors import UserInputError
from fercore.models import Model, build_backbone, build_trunk
from fercore.models.weights import fit_weights, read_weights

NARROW = {"channels": [8, 8, 16, 16]}
IMAGES = torch.randn(2, 3, 32, 32)


def settings(**changes):
    return ModelSettings(**{"backbone": "resnet18", "backbone_args": {"resnet18": NARROW}, **changes})


@pytest.mark.parametrize(("reduction", "channels"), [(4, 8), (8, 8), (16, 16)])
def test_a_trunk_ends_at_its_stride(reduction, channels):
    trunk = build_trunk(settings(), reduction=reduction)
    assert trunk.module(IMAGES).shape == (2, channels, 32 // reduction, 32 // reduction)
    assert (trunk.channels, trunk.reduction) == (channels, reduction)


def test_stages_behind_the_cut_do_not_exist():
    names = {name for name, _ in build_trunk(settings(), reduction=8).module.named_parameters()}
    assert any("layer2" in name for name in names)
    assert not any("layer3" in name for name in names)


def test_a_cut_efficientnet_computes_what_the_whole_one_does():
    plain = ModelSettings(backbone="test_efficientnet")
    stride = timm.create_model("test_efficientnet", features_only=True).feature_info.reduction()[1]
    trunk = build_trunk(plain, reduction=stride)
    whole = timm.create_model("test_efficientnet", features_only=True, out_indices=(1,)).eval()
    whole.load_state_dict(trunk.module.extractor.state_dict(), strict=False)
    torch.testing.assert_close(trunk.module.eval()(IMAGES), whole(IMAGES)[-1])
    assert len(trunk.module.extractor.blocks) < len(whole.blocks)


def test_a_whole_backbone_pools_to_a_vector():
    trunk = build_backbone(settings())
    assert trunk.module(IMAGES).shape == (2, 16)
    assert (trunk.channels, trunk.reduction) == (16, 0)


def test_local_weights_reach_trunk_and_backbone(tmp_path, monkeypatch):
    network = timm.create_model("resnet18", num_classes=5, **NARROW)
    path = tmp_path / "w.safetensors"
    save_file(network.state_dict(), path)
    trunk = build_trunk(settings(weights=str(path)), reduction=8)
    torch.testing.assert_close(trunk.module.extractor.conv1.weight, network.conv1.weight)
    whole = build_backbone(settings(weights=str(path)))
    torch.testing.assert_close(whole.module.layer4[1].conv2.weight, network.layer4[1].conv2.weight)
    monkeypatch.setenv("HOME", str(tmp_path))
    again = build_backbone(settings(weights="~/w.safetensors"))
    torch.testing.assert_close(again.module.conv1.weight, network.conv1.weight)


def test_a_frozen_backbone_stays_as_it_was_loaded():
    module = build_backbone(settings(freeze=True)).module
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.train()(IMAGES)
    assert not any(p.requires_grad for p in module.parameters())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet81"}, "unknown backbone 'resnet81'.*did you mean 'resnet18'"),
        ({"backbone_args": {"resnet18": {"chanels": 3}}}, "unexpected keyword argument 'chanels'.*model.backbone_args"),
        ({"weights": "/nowhere/w.pth"}, "weights file not found"),
        ({"backbone": "vit_tiny_patch16_224", "backbone_args": {}}, "no stage of stride 8"),
    ],
)
def test_bad_settings_are_one_clear_line(changes, message):
    with pytest.raises(UserInputError, match=message):
        build_trunk(settings(**changes), reduction=8)


class Sneaky:
    def __reduce__(self):
        return (print, ("pwned",))


@pytest.mark.parametrize("content", [b"", b"no weights at all", {"x": Sneaky()}, {"x": 3}, [torch.ones(2)]])
def test_what_is_no_plain_state_dict_is_refused(tmp_path, content, capsys):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserInputError, match="cannot read weights|no plain state dict"):
        read_weights(path)
    assert "pwned" not in capsys.readouterr().out


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_wrapped_and_prefixed_checkpoints_are_read(tmp_path, wrapper):
    layer = nn.Linear(2, 3)
    torch.save({wrapper: {f"module.{key}": value for key, value in layer.state_dict().items()}}, tmp_path / "w.pth")
    fitted = fit_weights(read_weights(tmp_path / "w.pth"), layer.state_dict(), where="w.pth")
    assert torch.equal(fitted["weight"], layer.weight)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_backbone_of_a_run_is_read_from_its_checkpoint(tmp_path, averaged):
    last, average = nn.Linear(2, 3), nn.Linear(2, 3)
    stored = {f"/model/backbone.{key}": value for key, value in last.state_dict().items()}
    if averaged:
        stored |= {f"/average/model/backbone.{key}": value for key, value in average.state_dict().items()}
    save_file({**stored, "/model/heads.main.weight": torch.ones(3, 3)}, tmp_path / "state.safetensors")
    fitted = fit_weights(read_weights(tmp_path / "state.safetensors"), last.state_dict(), where="file")
    assert set(fitted) == {"weight", "bias"}
    assert torch.equal(fitted["weight"], (average if averaged else last).weight)


def test_tensors_in_the_same_order_fit_by_position(caplog):
    wanted = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)).state_dict()
    found = {f"other.{i}": torch.randn_like(value) for i, value in enumerate(wanted.values())}
    found["classifier.weight"] = torch.ones(7, 4)
    fitted = fit_weights(found, wanted, where="file")
    assert torch.equal(fitted["1.bias"], found["other.3"])
    assert "matched by position" in caplog.text


def test_weights_that_do_not_fit_name_the_first_tensor():
    wanted = nn.Linear(2, 3).state_dict()
    with pytest.raises(UserInputError, match=r"weight \(3, 2\) meets a \(2, 2\)"):
        fit_weights({"a": torch.ones(2, 2), "b": torch.ones(3)}, wanted, where="file")
    with pytest.raises(UserInputError, match=r"weight is \(2, 2\) in the file, \(3, 2\) in the network"):
        fit_weights({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, wanted, where="file")
    with pytest.raises(UserInputError, match="1 tensors in the file, 2 in the network"):
        fit_weights({"a": torch.ones(3, 2)}, wanted, where="file")


def test_model_runs_every_branch():
    model = Model(
        nn.Flatten(),
        {"a": nn.Linear(12, 4), "b": nn.Linear(12, 5)},
        {"a": nn.Linear(4, 3), "b": nn.Linear(5, 3)},
        (0.5,) * 3,
        (0.5,) * 3,
    )
    encoded = model(torch.randn(2, 3, 2, 2))
    assert {name: tuple(f.shape) for name, f in encoded.features.items()} == {"a": (2, 4), "b": (2, 5)}
    assert encoded.logits["b"].shape == (2, 3)
    with pytest.raises(ValueError, match="must have the same names"):
        Model(nn.Flatten(), {"a": nn.Identity()}, {"b": nn.Identity()}, (0.5,) * 3, (0.5,) * 3)
