"""Runs that start from a trained model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fercore
from fercore.arguments import request_of
from fercore.data.spec import as_spec
from fercore.engine.initial import with_initial
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.records.plan import ViewRequest
from fercore.records.step import LossTerm, Role

TARGET = "synthfer:wild?n=112&seed=2"


class Entropy(Plugin):
    """Lowers the entropy of a trained model's predictions on the target, and builds no network of its own."""

    needs_source = False

    @hookimpl
    def request_views(self):
        return [ViewRequest("target", "weak", "weak")]

    @hookimpl
    def loss(self, encoded):
        log_p = torch.stack([z.log_softmax(1) for z in encoded["target", "weak"].logits.values()]).mean(0)
        return [LossTerm("entropy/entropy", Role.REGULARISER, -(log_p.exp() * log_p).sum(1).mean())]


@pytest.fixture(scope="module", autouse=True)
def _installed():
    """Let the package index know the method above, as an installed one."""
    info = PluginInfo("entropy", "tests.engine.test_initial:Entropy", "fercore", fercore.__version__, "")
    with pytest.MonkeyPatch.context() as patch:
        import fercore.engine.initial as initial
        import fercore.hooks.assemble as assembly

        for module in (initial, assembly):
            given = module.installed_plugins
            patch.setattr(module, "installed_plugins", lambda given=given: {**given(), "entropy": info})
        load = assembly.load_class
        patch.setattr(assembly, "load_class", lambda i: Entropy if i.name == "entropy" else load(i))
        yield


@pytest.fixture(scope="module")
def trained(make_context, listener, tmp_path_factory):
    """Run folders of methods whose networks differ: by name."""

    def make(name):
        folder = tmp_path_factory.mktemp("trained") / name
        if not folder.exists():
            run(make_context(name), folder, listener())
        return folder

    made = {}
    return lambda name: made.setdefault(name, make(name))


@pytest.fixture(scope="module")
def adapting(tiny):
    def make(model, *layers, names=("entropy",)):
        tiny_run = {key: value for key, value in tiny.items() if key not in ("model", "data")}
        data = {"target": TARGET, "target_batch": 14, "augment": "light", "sources": []}
        given = [tiny_run, {"data": data, "model": {"init": str(model)}}, *layers]
        return build_context(assemble(list(names), with_initial(given), preset="demo"))

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["source_only", *(pytest.param(n, marks=pytest.mark.slow) for n in ("la_cmfer", "pocan", "leaf"))]
)
def test_a_model_is_taken_over_with_all_that_it_says(trained, adapting, name):
    folder = trained(name)
    context, before = adapting(folder), fercore.load(folder)
    assert context.config.data.size == 32
    assert context.domains.classes == before.classes
    outputs = context.evaluator.predict(context.reported, context.domains.test, before.record.evaluation.clock)
    images = list(context.domains.test.read_many(range(len(context.domains.test))))
    assert np.array_equal(outputs.probs, before.predict(images).probs)


def test_an_adapted_model_stands_alone_and_resumes_to_the_bit(trained, adapting, listener, weights_of, tmp_path):
    folder = tmp_path / "initial"
    shutil.copytree(trained("source_only"), folder)
    record = run(adapting(folder), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(adapting(folder), tmp_path / "cut", listener(stop_after=5))
    run(adapting(folder), tmp_path / "cut", listener(), resume=True)
    left, right = (weights_of(tmp_path / name)["model"] for name in ("whole", "cut"))
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    context = adapting(tmp_path / "whole")  # an adapted model is a model
    shutil.rmtree(folder)
    model = fercore.load(tmp_path / "whole")
    images = list(context.domains.test.read_many(range(len(context.domains.test))))
    predicted = np.array(model.predict(images).labels)
    assert (predicted == np.array(context.domains.classes)[context.domains.test.labels]).mean() == pytest.approx(
        record.target.accuracy
    )
    assert model.record.initial.plugins[0].name == "source_only"


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_model(trained, adapting, listener, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(adapting(trained("source_only")), tmp_path / "cut", listener(stop_after=4))
    written = tmp_path / "cut" / "data.json"
    data = json.loads(written.read_text())
    data["fingerprint"]["init"] = "0" * 64
    written.write_text(json.dumps(data))
    with pytest.raises(UserInputError, match="'init' changed"):
        run(adapting(trained("source_only")), tmp_path / "cut", listener(), resume=True)


@pytest.mark.slow
def test_classes_go_by_name(trained, adapting):
    folder = trained("source_only")
    all_of_them = fercore.load(folder)
    context = adapting(folder, {"data": {"classes": ["neutral", "anger"]}})
    clock = all_of_them.record.evaluation.clock
    outputs = context.evaluator.predict(context.reported, context.domains.test, clock)
    images = list(context.domains.test.read_many(range(len(context.domains.test))))
    probs = all_of_them.predict(images).probs
    pair = probs[:, [all_of_them.classes.index("neutral"), all_of_them.classes.index("anger")]]
    assert outputs.probs == pytest.approx(pair / pair.sum(1, keepdims=True), abs=1e-5)
    with pytest.raises(UserInputError, match="the model has no class 'contempt'"):
        adapting(folder, {"data": {"classes": ["contempt", "anger"]}})


def test_settings_of_the_model_give_way_to_those_that_are_given(trained):
    layers = request_of(target=TARGET, init=str(trained("source_only")), assignments=["data.size=48"]).layers
    resolved = assemble(["entropy"], layers)
    assert resolved.config.data.size == 48
    assert resolved.config.model.backbone_args == {"resnet18": {"channels": [8, 8, 8, 8]}}


def test_a_method_without_a_network_needs_a_model(tiny):
    resolved = ResolvedRun(
        assemble(["source_only"], [tiny]).config.model_copy(update={"plugins": {}}),
        (Entropy("entropy", None),),
        (PluginInfo("entropy", "tests:Entropy", "tests", "0", ""),),
    )
    with pytest.raises(UserInputError, match="entropy adapts a trained model, and none is given") as caught:
        build_context(resolved)
    assert caught.value.where == "--init"


def test_a_model_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserInputError, match="model not found"):
        request_of(target=TARGET, init=str(tmp_path / "nothing"))


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """A state dict of the tiny network with a head of seven classes."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=7, **tiny["model"]["backbone_args"]["resnet18"]).eval()
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "net.pth")
    return network, tmp_path / "net.pth"


NAMES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry")


def layers_of(tiny, path, **data):
    given = {"sources": [], "target": as_spec(TARGET), "target_batch": 14, "augment": "light", "size": 32, **data}
    kept = {key: value for key, value in tiny.items() if key != "data"}
    return with_initial([{**kept, "model": {**tiny["model"], "init": str(path)}, "data": given}])


@pytest.mark.slow
def test_a_checkpoint_of_timm_is_adapted_and_its_classes_go_by_name(tiny, checkpoint, listener, tmp_path):
    network, path = checkpoint
    context = build_context(assemble(["entropy"], layers_of(tiny, f"{path}?names={','.join(NAMES)}"), preset="demo"))
    assert context.domains.classes == ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(context.model.eval()(images).logits["main"], network(images), atol=1e-5)
    run(context, tmp_path / "run", listener())
    path.unlink()
    assert fercore.load(tmp_path / "run").classes == context.domains.classes


@pytest.mark.slow
def test_a_method_with_a_network_of_its_own_keeps_the_head_by_name(tiny, checkpoint, trained):
    network, path = checkpoint
    names = ",".join(NAMES)
    layers = layers_of(tiny, f"{path}?names={names}", sources=tiny["data"]["sources"], source_batch=28)
    context = build_context(assemble(["source_only"], layers, preset="demo"))
    layer = context.model.heads["main"][-1]
    order = [
        ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger").index(c)
        for c in context.domains.classes
    ]
    assert context.kept_heads == ("main",)
    assert torch.equal(layer.weight, network.fc.weight[order])
    assert torch.equal(layer.bias, network.fc.bias[order])
    layers = layers_of(tiny, trained("source_only"), sources=tiny["data"]["sources"], source_batch=28)
    again = build_context(assemble(["source_only"], layers, preset="demo"))
    assert again.kept_heads == ("main",)
    bottleneck = build_context(assemble(["dann"], [*layers, {"dann": {"bottleneck": 16}}], preset="demo"))
    assert bottleneck.kept_heads == ()
    state = load_file(trained("source_only") / "model" / "model.safetensors")
    for context in (again, bottleneck):
        assert torch.equal(context.model.backbone.conv1.weight, state["backbone.conv1.weight"])


def test_an_unknown_order_of_classes_shows_three_images_in_both_readings(tiny, checkpoint):
    _, path = checkpoint
    with pytest.raises(UserInputError, match="nobody says in which order the 7 outputs") as caught:
        layers_of(tiny, path)
    readings = caught.value.what.split(": ", 1)[1].split("; ")
    assert len(readings) == 3
    assert all("(FER2013's order) or" in each and each.endswith("(that of the alphabet)") for each in readings)
    assert "?names=" in caught.value.fix
