"""Exported models say what the model says, in plain onnxruntime, and a refused export leaves nothing behind."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import fercore
from bench.export import differences, joined, measure
from fercore.data.spec import parse_spec
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.export import targets
from fercore.export.check import Bound, read_sample
from fercore.export.targets import export_model
from fercore.files import sha256_of
from fercore.hooks.discovery import installed_plugins
from fercore.testing import TINY

FAMILIES = ["la_cmfer", "pocan", "fixmatch+leaf_eaf", "pca"]


@pytest.mark.slow
@pytest.mark.parametrize(("to", "name", "pixels"), [("onnx", "model.onnx", "float"), ("torch", "model.pt2", "uint8")])
def test_the_printed_lines_run_without_fercore(small_run, tmp_path, to, name, pixels):
    exported = export_model(small_run, tmp_path / name, to=to, pixels=pixels)
    assert exported.check.difference < 1e-5
    assert len(exported.usage) == 10
    face = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(face)
    alone = "import sys; sys.modules['fercore'] = None; "
    said = subprocess.run(
        [sys.executable, "-I", "-c", alone + "\n".join(exported.usage), face],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    want = fercore.load(small_run, device="cpu").predict(face)
    printed = ast.literal_eval(said)
    assert tuple(printed) == want.classes
    assert np.abs(np.array(list(printed.values())) - want.probs[0]).max() < 1e-5


@pytest.mark.slow
def test_any_number_of_bytes_images_comes_in_and_metadata_tells_of_the_model(small_run, tmp_path):
    out = tmp_path / "model.onnx"
    export_model(small_run, out, to="onnx", pixels="uint8", data=parse_spec("synthfer:studio?n=5"))
    model = fercore.load(small_run, device="cpu")
    session = onnxruntime.InferenceSession(out)
    pixels = np.random.default_rng(1).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    want = model.predict(list(pixels.transpose(0, 2, 3, 1))).probs
    for n in (1, 7):
        (got,) = session.run(["output"], {"input": pixels[:n]})
        assert np.abs(got - want[:n]).max() < 1e-5
    about = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(about["classes"])) == model.classes
    assert about["weights_sha256"] == sha256_of(small_run / "model/model.safetensors")
    assert json.loads(about["licences"]) == ["trained on generated faces alone"]
    assert (about["size"], about["input"], about["compared"]) == ("32", "uint8 RGB in 0..255", "5")
    assert str(small_run.parent).encode() not in out.read_bytes()
    assert b"stack_trace" not in out.read_bytes()


@pytest.mark.slow
def test_emotiefflib_finds_its_classifier_classes_and_pixels(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RECOGNISERS", {32: "enet_b0_8_best_vgaf"})
    found = export_model(small_run, tmp_path / "model.onnx", to="onnx", pixels="emotiefflib")
    assert found.check.difference < 1e-5
    # What its EmotiEffLibRecognizerOnnx does: the last node is its classifier, the rest gives features.
    graph = (loaded := onnx.load(tmp_path / "model.onnx")).graph
    last = graph.node[-1]
    features, weight, bias = last.input
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert last.op_type == "Gemm"
    graph.node.remove(last)
    graph.output.remove(graph.output[0])
    shape = [None, arrays[weight].shape[1]]
    graph.output.append(onnx.helper.make_tensor_value_info(features, onnx.TensorProto.FLOAT, shape))
    session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    given = ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2).astype(np.float32)
    scores = session.run(None, {"input": given})[0] @ arrays[weight].T + arrays[bias]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = ["anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
    model = fercore.load(small_run, device="cpu")
    want = model.predict(list(pixels)).probs
    assert np.abs(shares[:, [names.index(name) for name in model.classes]] - want).max() < 1e-5
    assert shares[:, 1].max() < 1e-30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pixels": "emotiefflib"}, "EmotiEffLib gives no images of 32 px (--input); train with data.size=224 or 260"),
        ({"pixels": "emotiefflib", "to": "torch", "name": "model.pt2"}, "EmotiEffLib reads no --to torch (--input)"),
        ({"to": "onyx"}, "unknown value 'onyx' (--to); did you mean 'onnx'?"),
        ({"pixels": "double"}, "unknown value 'double' (--input)"),
        ({"data": parse_spec("synthfer:nowhere")}, "nowhere"),
        ({"to": "torch", "name": "model.pt2", "form": "int8"}, "no int8 for --to torch (--int8)"),
        ({"name": "model.bin"}, "not a new .onnx file"),
        ({"name": "taken.onnx"}, "output file exists"),
        ({"name": "missing/model"}, "model not found"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(small_run, tmp_path, given, message):
    (tmp_path / "taken.onnx").touch()
    name = given.pop("name", "model.onnx")
    model = tmp_path / "none" if name == "missing/model" else small_run
    out = tmp_path / ("model.onnx" if name == "missing/model" else name)
    with pytest.raises(UserInputError) as caught:
        export_model(model, out, **{"to": "onnx", **given})
    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.onnx"]


@pytest.mark.slow
def test_what_says_something_else_is_refused_and_not_written(small_run, tmp_path, monkeypatch):
    runner = targets.KINDS["torch"].runner
    wrong = replace(targets.KINDS["torch"], runner=lambda file: lambda x: np.roll(runner(file)(x), 1, axis=1))
    monkeypatch.setitem(targets.KINDS, "torch", wrong)
    with pytest.raises(UserInputError, match=r"the float32 export differs from the model by .* of 64 images"):
        export_model(small_run, tmp_path / "model.pt2", to="torch")
    assert list(tmp_path.iterdir()) == []
    assert targets.FORMS["float32"][0] == Bound(difference=1e-4, agreement=0.98)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kind"), [("half", "FLOAT16"), ("int8", "INT8")])
def test_fewer_bits_say_nearly_the_same_in_less_room(small_run, tmp_path, form, kind, monkeypatch):
    exported = export_model(small_run, tmp_path / "model.onnx", to="onnx", form=form)
    graph = onnx.load(tmp_path / "model.onnx").graph
    sizes = {name: 0 for name in ("FLOAT", kind)}
    for each in graph.initializer:
        name = onnx.TensorProto.DataType.Name(each.data_type)
        sizes[name] = sizes.get(name, 0) + math.prod(each.dims)
    assert sizes[kind] > 10 * sizes["FLOAT"]
    assert 1e-6 < exported.check.difference < 0.25
    monkeypatch.setitem(targets.FORMS, form, (Bound(difference=1e-7, agreement=1.0), targets.FORMS[form][1]))
    with pytest.raises(UserInputError, match=rf"the {form} export differs .* leave --half and --int8 out"):
        export_model(small_run, tmp_path / "other.onnx", to="onnx", form=form)
    assert not (tmp_path / "other.onnx").exists()


def test_a_missing_package_is_named_with_what_installs_it(small_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserInputError, match=r"needs the package onnxscript .*pip install 'fercore\[onnx\]'"):
        export_model(small_run, tmp_path / "model.onnx", to="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("names", FAMILIES)
def test_predict_predictions_and_onnxruntime_agree(names, tmp_path, make_context, listener):
    context = make_context(*names.split("+"), layers=({"train": {"steps": 2}},))
    run(context, tmp_path / "run", listener())
    export_model(tmp_path / "run", tmp_path / "model.onnx", to="onnx")
    told = differences(tmp_path / "run", tmp_path / "model.onnx", TINY["data"]["target"])
    assert set(told) == {"predict", "predictions.csv", "onnxruntime"}
    assert max(told.values()) < 1e-5


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(installed_plugins()))
def test_every_method_agrees(name):
    row = measure(joined(name) or name, "onnx", "float32")
    print(name, json.dumps(row))
    assert max(row["difference"], *row["to_load"].values()) < 1e-5


def test_images_to_compare_are_those_of_the_dataset(small_run):
    model = fercore.load(small_run, device="cpu")
    images = read_sample(model, parse_spec("synthfer:studio?n=9"), n=4).images
    again = read_sample(model, parse_spec("synthfer:studio?n=9"), n=4).images
    assert images.shape == (4, 3, 32, 32)
    assert np.array_equal(images, again)
