"""The model of a finished run: loaded where its datasets are gone, it says what the run's evaluation said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import fercore
from fercore.errors import UserInputError
from fercore.hooks.discovery import PluginInfo, installed_plugins


@pytest.fixture
def copied(trained, tmp_path):
    """Return a copy of the run's model folder, to be damaged."""
    shutil.copytree(trained / "run/model", tmp_path / "model")
    (tmp_path / "model/SHA256SUMS").unlink()
    return tmp_path / "model"


@pytest.mark.slow
def test_probabilities_and_features_are_those_of_the_evaluation_to_the_bit(trained, scored_images):
    state = torch.get_rng_state()
    model = fercore.load(trained / "run", device="cpu")
    predictions = model.predict(scored_images)
    assert torch.equal(torch.get_rng_state(), state)
    want = np.load(trained / "run/features.npz")
    assert len(predictions) == len(want["probs"]) > 16
    assert np.array_equal(predictions.probs, want["probs"])
    (features,) = model.features(scored_images).values()
    assert np.array_equal(features, want["features/main"])
    assert predictions.images == tuple(map(str, scored_images))
    assert (
        predictions.classes
        == model.classes
        == tuple(json.loads((trained / "run/result.json").read_text())["target"]["classes"])
    )
    assert predictions.labels == tuple(model.classes[k] for k in want["probs"].argmax(1))
    first = predictions.to_json()[0]
    assert first["prediction"] == predictions.labels[0]
    assert first["confidence"] == max(first["probabilities"].values())
    assert json.loads(json.dumps(first)) == first


def test_one_image_is_the_same_however_it_is_given(trained, scored_images):
    model, path = fercore.load(trained / "run/model"), scored_images[0]
    image = Image.open(path)
    pixels = np.asarray(image.convert("RGB"))
    forms = [path, str(path), image, pixels, [pixels], pixels[None], torch.from_numpy(pixels.copy()).permute(2, 0, 1)]
    forms += [model.transform(path), model.transform(path)[None]]
    first, *others = [model.predict(form).probs for form in forms]
    assert first.shape == (1, len(model.classes))
    assert all(np.array_equal(first, other) for other in others)
    grey = pixels[:, :, 0]
    assert np.array_equal(model.predict(grey).probs, model.predict(np.repeat(grey[:, :, None], 3, 2)).probs)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("gone.png", "unusable image: cannot be loaded: No such file or directory (gone.png)"),
        (np.zeros((8, 8), np.uint16), "one-channel image of more than 8 bits, and no range to scale it by (ndarray)"),
        (np.zeros((8, 8, 4), np.uint8), "array of uint8[8, 8, 4], where uint8[H,W,3] or one channel [H,W] is read"),
        (np.zeros((0, 8), np.uint8), "array of uint8[0, 8]"),
        (np.array([["x"]]), "unusable image: array of <U1[1, 1]"),
        (
            torch.zeros(3, 5, 5),
            "float tensor of shape [3, 5, 5] (predict); give what transform returns, float[3,32,32]",
        ),
        ([None], "no image (NoneType); give a path, an array, a PIL image or a tensor"),
        ([], "no image to predict"),
    ],
)
def test_what_is_no_image_is_one_line(trained, image, message):
    with pytest.raises(UserInputError) as caught:
        fercore.load(trained / "run").predict(image)
    assert message in str(caught.value)


def test_extras_have_a_row_an_image(trained):
    model = fercore.load(trained / "run")
    with pytest.raises(UserInputError, match=r"extras 'au' of shape \[2, 3\] for 1 image"):
        model.predict(np.zeros((8, 8), np.uint8), extras={"au": np.zeros((2, 3))})


def test_a_range_of_the_target_holds_for_predicted_images(trained, copied):
    edit(copied, lambda record: record["images"].update(range="0,1000"))
    model = fercore.load(copied)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 15
    scaled = np.floor(deep * 255.0 / 1000 + 0.5).astype(np.uint8)
    colour = np.repeat(scaled[:, :, None], 3, axis=2)
    assert torch.equal(model.transform(deep), model.transform(colour))


def edit(folder: Path, change) -> None:
    record = json.loads((folder / "model.json").read_text())
    change(record)
    (folder / "model.json").write_text(json.dumps(record))


def plugin(**values):
    return lambda record: record["plugins"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema=2), "model of schema 2, and this fercore reads up to 1"),
        (plugin(name="mine", distribution="fercore-mine", version="3.1"),
         "the model needs plugin 'mine' of fercore-mine 3.1, which is not installed (FOLDER); "
         "pip install fercore-mine==3.1"),
        (plugin(version="9.9"), "fercore 9.9, and fercore 0.1.0 is installed (FOLDER); pip install fercore==9.9"),
        (lambda r: r["classes"].pop(), "does not fit model.json: size mismatch for heads.main.1.weight"),
        (lambda r: r.update(classes=["a"] * 7), "model.json is damaged: a class is named twice"),
        (lambda r: r.update(classes=[]), "model.json is damaged: classes: list should have at least 2 items"),
        (lambda r: r.pop("images"), "model.json is damaged: images: field required"),
        (lambda r: r["images"].update(std=[0, 1, 1]), "model.json is damaged: images.std.0"),
        (lambda r: r["images"].update(range="1"), "cannot read option range='1' (model.json)"),
        (lambda r: r["settings"]["model"].update(backbone="resnet81"), "unknown backbone 'resnet81' (FOLDER); did you"),
        (lambda r: r["settings"].update(data=7), "model.json is damaged: settings.data: input should be"),
        (lambda r: r["settings"].update(preset="none"), "the model cannot be built: unknown preset 'none'"),
        (lambda r: r["provenance"].update(sources=[]), "0 sources in its provenance, 1 in its settings (FOLDER)"),
        (lambda r: r["settings"].update(nobody=1), "the model cannot be built: unknown setting 'nobody'"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_used_is_one_line(copied, change, message):
    edit(copied, change)
    with pytest.raises(UserInputError) as caught:
        fercore.load(copied)
    assert message.replace("FOLDER", str(copied)) in str(caught.value)


def test_a_plugin_of_another_package_is_named(copied, monkeypatch):
    other = PluginInfo("source_only", "elsewhere:SourceOnly", "elsewhere", "0.1.0", "")
    monkeypatch.setattr(
        "fercore.engine.initial.installed_plugins", lambda: {**installed_plugins(), "source_only": other}
    )
    with pytest.raises(UserInputError, match=r"and elsewhere 0\.1\.0 is installed.*pip install fercore==0\.1\.0"):
        fercore.load(copied)


def tensor(name: str, change):
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = change(tensors[name])
        save_file(tensors, folder / "model.safetensors")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (tensor("heads.main.1.bias", lambda t: t * float("nan")), "heads.main.1.bias holds values that are not finite"),
        (tensor("heads.main.1.bias", lambda t: t.double()), "is float64[7] in the file, float32[7] in the network"),
        (tensor("heads.main.1.bias", lambda t: t[None]), "is float32[1, 7] in the file, float32[7] in the network"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot read model.safetensors"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot read model.safetensors: No such file"),
        (lambda f: (f / "model.json").write_text("{"), "cannot read model.json"),
        (lambda f: (f / "SHA256SUMS").write_text("0  model.safetensors"), "model.safetensors has other bytes"),
        (lambda f: (f / "model.json").unlink(), "no model in this folder"),
        (shutil.rmtree, "model not found"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_one_line(copied, damage, message):
    damage(copied)
    with pytest.raises(UserInputError) as caught:
        fercore.load(copied)
    assert message in str(caught.value)


def test_a_run_that_has_not_ended_has_no_model(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/model")
    with pytest.raises(UserInputError, match="no model in this run folder.*--resume"):
        fercore.load(tmp_path / "run")


def test_a_model_says_what_it_comes_from(trained):
    record = json.loads((trained / "run/model/model.json").read_text())
    origin, result = record["provenance"], json.loads((trained / "run/result.json").read_text())
    assert [(s["spec"], s["n"]) for s in origin["sources"]] == [(s["spec"], s["n"]) for s in result["sources"]]
    assert [sum(s["per_class"].values()) for s in origin["sources"]] == [42]
    assert origin["target"] == {"spec": result["target"]["spec"], "n": result["target"]["n_adaptation"]}
    assert (origin["seed"], origin["averaged"], record["schema"]) == (3, True, 1)
    assert record["images"] | {"mean": 0, "std": 0} == {
        "size": 32, "resize": "stretch", "colour": "RGB", "mean": 0, "std": 0, "range": None
    }  # fmt: skip
