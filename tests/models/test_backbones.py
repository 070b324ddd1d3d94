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


def test_tensors_in_the_order_of_their_names_are_not_taken_for_each_other():
    wanted = nn.LayerNorm(4).state_dict()
    found = {f"norm.{key}": wanted[key] for key in sorted(wanted)}
    with pytest.raises(UserInputError, match=r"weights do not fit: norm.bias for weight \(file\)"):
        fit_weights(found, wanted, where="file")


def test_weights_that_do_not_fit_name_the_first_tensor():
    wanted = nn.Linear(2, 3).state_dict()
    with pytest.raises(UserInputError, match=r"a for weight is \(2, 2\) in the file, \(3, 2\) in the network"):
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


def test_what_of_a_file_is_not_used_is_said(tmp_path, caplog):
    network = timm.create_model("resnet18", num_classes=7, **NARROW)
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    build_backbone(settings(weights=str(path)))
    n = len(network.state_dict()) - 2
    assert f"weights of {path}: {n} tensors used; not used: fc.weight (7, 16), fc.bias (7,)" in caplog.text
    caplog.clear()
    torch.save(timm.create_model("resnet18", num_classes=0, **NARROW).state_dict(), path)
    build_backbone(settings(weights=str(path)))
    assert not caplog.records
    build_trunk(settings(weights=str(path)), reduction=8)
    assert f"{path}: tensors of layers behind stride 8 are not used" in caplog.text


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema"])
def test_averaged_weights_go_before_those_beside_them(tmp_path, name, caplog):
    plain, averaged = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save({"state_dict": plain.state_dict(), name: averaged.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    assert torch.equal(read_weights(tmp_path / "w.pth")["weight"], averaged.weight)
    assert f"{name!r} is read, 'state_dict' beside it not" in caplog.text
    caplog.clear()
    torch.save({"state_dict": plain.state_dict(), name: {"decay": 0.9}}, tmp_path / "w.pth")
    assert torch.equal(read_weights(tmp_path / "w.pth")["weight"], plain.weight)
    assert not caplog.records


def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path):
    for content, message in (
        ({"epoch": 3, "lr": 0.1}, "no plain state dict but 'epoch', 'lr'"),
        ([torch.ones(2)], "no plain state dict but a list"),
        ({}, "no plain state dict but an empty one"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(UserInputError, match=message):
            read_weights(tmp_path / "w.pth")


def test_the_backbone_of_a_run_leaves_its_heads_and_says_so(tmp_path, caplog):
    save_file({"/model/backbone.a": torch.ones(1), "/model/heads.main.weight": torch.ones(1)}, tmp_path / "s.pth")
    assert set(read_weights(tmp_path / "s.pth")) == {"a"}
    assert "the backbone of a run is read; its heads and parts are not" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.full((3, 2), torch.nan), "weight holds values that are not finite.*before training went wrong"),
        (torch.full((3, 2), 1e300, dtype=torch.float64), "weight holds values that are not finite"),
        (torch.ones(3, 2, dtype=torch.int8), r"weight holds whole numbers \(int8\), no weights"),
        (torch.ones(3, 2).to_sparse(), "weight is no dense tensor of real numbers"),
        (torch.ones(3, 2, dtype=torch.complex64), "weight is no dense tensor of real numbers"),
        (torch.ones(3, 2, device="meta"), "weight is no dense tensor of real numbers"),
        (torch.ones(3, 2).to(torch.float8_e4m3fn), "weight is no dense tensor of real numbers"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(values, message):
    layer = nn.Linear(2, 3)
    with pytest.raises(UserInputError, match=message):
        fit_weights({"weight": values, "bias": torch.zeros(3)}, layer.state_dict(), where="file")
    with pytest.raises(UserInputError, match=message.replace("weight ", "a for weight ", 1)):
        fit_weights({"a": values, "b": torch.zeros(3)}, layer.state_dict(), where="file")


def test_a_head_that_is_not_used_may_hold_anything():
    head = {"fc.weight": torch.full((7, 3), torch.nan)}
    assert set(fit_weights({**nn.Linear(2, 3).state_dict(), **head}, nn.Linear(2, 3).state_dict(), where="f"))


def test_one_name_for_two_tensors_is_refused():
    found = {"weight": torch.ones(3, 2), "module.weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    with pytest.raises(UserInputError, match="several tensors have one name"):
        fit_weights(found, nn.Linear(2, 3).state_dict(), where="file")


def test_own_shapes_are_advised_only_where_the_weights_fit_them(tmp_path):
    advice = "model.backbone_args.resnet18={} for timm's own shapes"
    for name, helps in (("resnet18", True), ("resnet10t", False)):
        torch.save(timm.create_model(name, num_classes=7).state_dict(), tmp_path / "w.pth")
        with pytest.raises(UserInputError, match="weights do not fit") as caught:
            build_backbone(settings(weights=str(tmp_path / "w.pth")))
        assert (advice in str(caught.value)) == helps


def test_arguments_are_blamed_only_where_there_are_some(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr(timm, "create_model", refuse)
    for chosen, blamed in (({}, False), ({"channels": [8, 8, 8, 8]}, True)):
        with pytest.raises(UserInputError, match="cannot be built") as caught:
            build_backbone(ModelSettings(backbone="resnet18", backbone_args={"resnet18": chosen}))
        assert ("backbone_args.resnet18={}" in caught.value.fix) == blamed


WIDTHS = {"lcnet_035": 1280, "test_mambaout": 256, "efficientvit_b0": 1280, "mobilenetv4_conv_small_035": 1280}


@pytest.mark.parametrize("name", WIDTHS)
def test_the_width_of_a_backbone_is_what_it_yields(name):
    before = torch.get_rng_state()
    trunk = build_backbone(ModelSettings(backbone=name))
    assert trunk.channels == WIDTHS[name] != trunk.module.num_features
    fresh = timm.create_model(name, num_classes=0)
    for key, value in trunk.module.state_dict().items():  # the trial leaves batch statistics as they begin
        if "running" in key or "num_batches" in key:
            assert torch.equal(value, fresh.state_dict()[key])
    assert trunk.module.training
    torch.set_rng_state(before)
    timm.create_model(name, num_classes=0)
    drawn = torch.get_rng_state()
    torch.set_rng_state(before)
    build_backbone(ModelSettings(backbone=name))
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"global_pool": ""}, r"yields \(8, 7, 7\) for an image, not a vector"), ({"in_chans": 1}, "224x224 RGB image")],
)
def test_a_backbone_that_yields_no_vector_is_refused(arguments, message):
    narrow = {"channels": [8, 8, 8, 8], **arguments}
    with pytest.raises(UserInputError, match=message):
        build_backbone(ModelSettings(backbone="resnet18", backbone_args={"resnet18": narrow}))


@pytest.mark.slow
def test_a_trunk_of_maps_with_channels_last_is_refused():
    with pytest.raises(UserInputError, match=r"yields \(28, 28, 192\) for an image, not a map of 192 channels"):
        build_trunk(ModelSettings(backbone="swin_tiny_patch4_window7_224"), reduction=8)
