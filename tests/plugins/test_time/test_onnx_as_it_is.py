"""An ONNX graph that is run as it is: methods that need no gradient of it adapt to a stream, others are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fercore
from fercore.data.spec import as_spec
from fercore.engine.initial import with_initial
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.export.targets import export_model
from fercore.hooks.assemble import assemble

NAMES = "anger,disgust,fear,happiness,sadness,surprise,neutral"


@pytest.fixture
def graph(tmp_path):
    """A network whose last layer is none that is known as a head, and its file."""
    pytest.importorskip("onnx2torch")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(),
        nn.Linear(32, 7), nn.Tanh(),
    ).eval()  # fmt: skip
    path = tmp_path / "given.onnx"
    axes = {"images": {0: "n"}}
    torch.onnx.export(
        network, (torch.zeros(2, 3, 32, 32),), path, dynamo=False, input_names=["images"], dynamic_axes=axes
    )
    return network, path


def context_of(tiny, path, method, **more):
    data = {"sources": [], "target": as_spec("synthfer:wild?n=60&seed=2"), "target_batch": 10}
    kept = {key: value for key, value in tiny.items() if key not in ("data", "model")}
    layers = with_initial([{**kept, "model": {"init": f"{path}?names={NAMES}"}, "data": data, **more}])
    return build_context(assemble([method], layers, preset="demo"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lame", "t3a"])
def test_a_graph_is_adapted_and_its_model_stands_alone(tiny, graph, listener, tmp_path, method):
    network, path = graph
    context = context_of(tiny, path, method)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(context.model.eval()(images).logits["main"], network(images), atol=1e-5)
    result = run(context, tmp_path / "run", listener())
    assert result.online is not None
    path.unlink()
    predictor = fercore.load(tmp_path / "run", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 32, 32), dtype=np.uint8)
    if method == "lame":  # whose model is the one that was given
        with torch.no_grad():
            wanted = network(predictor._normalised(pixels)).softmax(1)
        assert predictor.answer(pixels).probs == pytest.approx(wanted.numpy(), abs=1e-5)
    with pytest.raises(UserInputError, match="cannot be exported once more"):
        export_model(tmp_path / "run", tmp_path / "again.onnx", to="onnx")


@pytest.mark.parametrize(("method", "message"), [("tent", "tent"), ("shot", "nothing else in this network")])
def test_methods_that_would_train_it_are_refused_in_a_line(tiny, graph, method, message):
    with pytest.raises(UserInputError, match=message):
        context_of(tiny, graph[1], method)
