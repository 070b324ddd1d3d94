"""Trained models of other programs: what is read of them is what they say of images."""

from __future__ import annotations

import json
import zipfile

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fercore.config import ModelSettings
from fercore.errors import UserInputError
from fercore.models import build_backbone
from fercore.models.initial import read_foreign, split_names
from fercore.models.initial.foreign_model import canonical_names

NAMES = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=7).eval()


@torch.no_grad()
def answers(foreign, images=IMAGES):
    """Return the logits of a model as a run builds it."""
    settings = ModelSettings(
        backbone=foreign.backbone, backbone_args={foreign.backbone: dict(foreign.arguments)}, weights=str(foreign.file)
    )
    features = build_backbone(settings).module.eval()(images)
    return features @ foreign.weight.T + (0 if foreign.bias is None else foreign.bias)


WRAPPINGS = {
    "bare.pth": lambda state: state,
    "parallel.pth": lambda state: {"state_dict": {f"module.{key}": t for key, t in state.items()}},
    "lightning.ckpt": lambda state: {
        "state_dict": {f"model._orig_mod.{key}": t for key, t in state.items()},
        "epoch": 3,
    },
    "average.pth": lambda state: {"state_dict": {k: t * 0 for k, t in state.items()}, "state_dict_ema": state},
}


@pytest.mark.parametrize("name", [*WRAPPINGS, "bare.safetensors"])
def test_a_timm_checkpoint_keeps_its_head(network, tmp_path, name):
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(WRAPPINGS[name](state), tmp_path / name)
    foreign = read_foreign(str(tmp_path / name), backbone="resnet10t")
    assert (foreign.kind, foreign.names, foreign.size) == ("timm weights", None, 176)
    assert torch.allclose(answers(foreign), network(IMAGES), atol=1e-5)


def test_a_classifier_inside_a_sequence_is_read(network, tmp_path):
    """As EmotiEffLib's networks have it."""
    state = {key.replace("fc.", "fc.0."): tensor for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "enet.pth")
    assert torch.allclose(
        answers(read_foreign(str(tmp_path / "enet.pth"), backbone="resnet10t")), network(IMAGES), atol=1e-5
    )


def test_a_timm_folder_of_the_hub_says_all(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": "resnet10t", "num_classes": 7, "label_names": NAMES,
        "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 32, 32]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    foreign = read_foreign(str(tmp_path), backbone=None)
    assert (foreign.names, foreign.size, foreign.mean) == (tuple(NAMES), 32, (0.5, 0.4, 0.3))
    assert torch.allclose(answers(foreign), network(IMAGES), atol=1e-5)


def test_a_classifier_of_transformers_is_taken_apart(tmp_path):
    transformers = pytest.importorskip("transformers")
    labels = dict(enumerate(NAMES))
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        id2label=labels, label2id={name: k for k, name in labels.items()},
    )  # fmt: skip
    torch.manual_seed(1)
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    with pytest.raises(UserInputError, match="has no image_mean of three channels"):
        read_foreign(str(tmp_path), backbone=None)
    images = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    foreign = read_foreign(str(tmp_path), backbone=None)
    assert (foreign.names, foreign.size, foreign.kind) == (tuple(NAMES), 32, "vit of transformers")
    with torch.no_grad():
        assert torch.allclose(answers(foreign), network(IMAGES).logits, atol=1e-5)


class Small(nn.Module):
    def __init__(self, last=None):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = last or nn.Linear(8, 7)

    def forward(self, images):
        return self.head(self.body(images)).softmax(1)


def onnx_of(network, path):
    pytest.importorskip("onnx2torch")
    torch.onnx.export(network.eval(), (IMAGES[:1],), path, dynamo=False, input_names=["images"],
                      dynamic_axes={"images": {0: "n"}})  # fmt: skip
    return path


def test_an_onnx_classifier_is_converted_up_to_its_head(tmp_path):
    torch.manual_seed(2)
    network = Small()
    foreign = read_foreign(str(onnx_of(network, tmp_path / "small.onnx")), backbone=None)
    assert (foreign.size, foreign.backbone) == (32, "onnx")
    with torch.no_grad():
        assert torch.allclose(answers(foreign).softmax(1), network(IMAGES), atol=1e-5)
    assert len(foreign.arguments["graph"]) < 4000  # what it has learnt is not in the settings


def test_an_onnx_graph_that_is_not_converted_is_run_as_it_is(tmp_path):
    import copy

    import onnx

    torch.manual_seed(2)
    network = Small(nn.Sequential(nn.Linear(8, 7), nn.Tanh()))
    path = onnx_of(network, tmp_path / "end.onnx")
    foreign = read_foreign(str(path), backbone=None)
    assert (foreign.size, foreign.backbone, foreign.arguments["probabilities"]) == (32, "onnx_as_it_is", True)
    assert "not in a linear layer" in foreign.kind
    with torch.no_grad():
        wanted = network(IMAGES)
        assert torch.allclose(answers(foreign).softmax(1), wanted, atol=1e-5)
        arguments = {foreign.backbone: dict(foreign.arguments)}
        settings = ModelSettings(backbone=foreign.backbone, backbone_args=arguments, weights=str(path))
        module = build_backbone(settings).module
        again = copy.deepcopy(module)
        module.file.zero_()  # as before its state comes
        assert module(IMAGES).eq(0).all()
        module.load_state_dict(again.state_dict())
        assert torch.allclose(module(IMAGES).exp(), wanted, atol=1e-5)
    graph = onnx.load(path)
    graph.graph.node[-1].op_type = "Hardmax"
    graph.graph.node[-1].ClearField("attribute")
    onnx.save(graph, tmp_path / "odd.onnx")
    odd = read_foreign(str(tmp_path / "odd.onnx"), backbone=None)
    assert "an operator that is not converted: Hardmax" in odd.kind
    with torch.no_grad():
        assert answers(odd).argmax(1).equal(wanted.argmax(1))


def test_a_graph_of_two_images_at_a_time_answers_three(tmp_path):
    pytest.importorskip("onnx2torch")
    torch.manual_seed(2)
    network = Small(nn.Sequential(nn.Linear(8, 7), nn.Tanh())).eval()
    torch.onnx.export(network, (IMAGES[:2],), tmp_path / "two.onnx", dynamo=False)
    foreign = read_foreign(str(tmp_path / "two.onnx"), backbone=None)
    assert foreign.arguments["batch"] == 2
    three = torch.cat([IMAGES, -IMAGES[:1]])
    with torch.no_grad():
        assert torch.allclose(answers(foreign, three).softmax(1), network(three), atol=1e-5)


def test_what_an_onnx_file_lacks_is_named(tmp_path):
    import onnx

    path = onnx_of(Small(), tmp_path / "small.onnx")
    model = onnx.load(path)
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Secret", "org.example"
    model.graph.node[-1].ClearField("attribute")
    model.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(UserInputError, match=r"the graph cannot be run.*Secret"):
        read_foreign(str(tmp_path / "odd.onnx"), backbone=None)
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserInputError, match="cannot read ONNX file"):
        read_foreign(str(tmp_path / "cut.onnx"), backbone=None)


def test_what_cannot_be_started_from_is_told_in_a_line(network, tmp_path):
    torch.save(network, tmp_path / "whole.pth")
    with pytest.raises(UserInputError, match=r"whole pickled network .*torch.save\(loaded.state_dict\(\), OUT\)"):
        read_foreign(str(tmp_path / "whole.pth"), backbone=None)
    state = network.state_dict()
    torch.save(state, tmp_path / "state.pth")
    with pytest.raises(UserInputError, match="does not say of which network") as caught:
        read_foreign(str(tmp_path / "state.pth"), backbone=None)
    assert caught.value.fix == "say which network it is of: --set model.backbone=NAME, a timm model"
    torch.save({key: t for key, t in state.items() if not key.startswith("fc.")}, tmp_path / "headless.pth")
    with pytest.raises(UserInputError, match=r"has no classifier fc\.weight"):
        read_foreign(str(tmp_path / "headless.pth"), backbone="resnet10t")
    with pytest.raises(UserInputError, match="no model in this folder"):
        read_foreign(str(tmp_path), backbone=None)
    with pytest.raises(UserInputError, match="model not found"):
        read_foreign(str(tmp_path / "nothing"), backbone=None)
    with pytest.raises(UserInputError, match="weights 'mobilenet_v2' have no head|not installed"):
        read_foreign("package:mobilenet_v2", backbone=None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserInputError, match="no weights in this folder"):
        read_foreign(str(tmp_path), backbone=None)
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w"):
        pass
    with pytest.raises(UserInputError, match="names no network"):
        read_foreign(str(tmp_path), backbone=None)


def test_names_are_matched_and_never_guessed():
    assert split_names("a?b.pth?names=Angry, happy") == ("a?b.pth", ("Angry", "happy"))
    assert split_names("run") == ("run", None)
    assert canonical_names(["Angry", "Happy", "Sad"], 3, where="m") == ("anger", "happiness", "sadness")
    for names, outputs, what in (
        (["angry", "happy"], 7, "2 class names for 7 outputs"),
        (["angry", "hapy"], 2, "no expression: 'hapy'"),
        (["angry", "anger"], 2, "two outputs of the model are anger"),
    ):
        with pytest.raises(UserInputError, match=what):
            canonical_names(names, outputs, where="m")
    with pytest.raises(UserInputError, match="cannot read names"):
        split_names("m?names=a,,b")
