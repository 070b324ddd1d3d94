"""Methods with a network of their own go on from a trained model's answers."""

from __future__ import annotations

import pytest
import torch

from fercore.data.batches.loader import eval_batches
from fercore.data.spec import as_spec
from fercore.engine.initial import with_initial
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble, own_preset
from fercore.hooks.discovery import find_plugin, installed_plugins, load_class
from fercore.models import heads_on_backbone
from fercore.records.step import PLAIN

TARGET = "synthfer:wild?n=112&seed=2"


@pytest.fixture(scope="module")
def source(make_context, listener, tmp_path_factory):
    """A source model of the tiny network, and its context."""
    context = make_context("source_only")
    folder = tmp_path_factory.mktemp("source") / "run"
    run(context, folder, listener())
    return folder


@pytest.fixture(scope="module")
def started(tiny, source):
    """Contexts of methods that start from it."""

    def start(name, *layers, init=source):
        data = {**tiny["data"], "target": as_spec(TARGET), "size": 64}
        kept = {key: value for key, value in tiny.items() if key not in ("data", "model", name)}
        given = [{**kept, "model": {"init": str(init)}, "data": data}, *layers]
        return build_context(assemble([name], with_initial(given), preset="demo"))

    return start


@torch.no_grad()
def answers(context, images):
    """Probabilities of the method itself, as an evaluation has them."""
    model, plugins = context.model.eval(), context.plugins
    return plugins.predict(model, model(images))


def images(n=24, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


HEADS = {
    "source_only": ("main",),
    "dann": ("main",),
    "mdan": ("main",),
    "adacm": ("main",),
    "steady": ("main", "parts"),
    "la_cmfer": ("global", "local"),
    "leaf": ("main",),
    "pocan": ("source", "target"),
}


@pytest.mark.parametrize("name", list(HEADS))
def test_heads_of_the_trained_model_are_taken_over(started, name):
    assert sorted(started(name).kept_heads) == sorted(HEADS[name])


def test_both_views_of_la_cmfer_begin_as_the_trained_model(started):
    trained, method = started("source_only"), started("la_cmfer")
    with torch.no_grad():
        expected = trained.model.eval()(images()).logits["main"]
        found = method.model.eval()(images()).logits
    torch.testing.assert_close(found["global"], expected, rtol=0, atol=1e-5)
    # Quarters have edges of their own: the same layers, nearly the same answer.
    assert torch.corrcoef(torch.stack([found["local"].flatten(), expected.flatten()]))[0, 1] > 0.5


def test_prototypes_of_pocan_begin_as_the_trained_head(started):
    trained, method = started("source_only"), started("pocan")
    with torch.no_grad():
        features = trained.model.eval()(images()).features["main"]
        found = method.model.eval()(images()).logits
        layer = trained.model.heads["main"][-1]
        unit = torch.nn.functional.normalize(features)
        scale = (found["source"] - layer.bias) / torch.nn.functional.linear(unit, layer.weight)
    assert torch.equal(found["source"], found["target"])
    # Rows of length 1 are scaled by the mean length of the model's own features.
    torch.testing.assert_close(scale, scale.median().expand_as(scale), rtol=1e-3, atol=0)
    assert 0.2 < float(scale.median() / features.norm(dim=1).mean()) < 5


def test_experts_of_leaf_begin_beside_the_trained_model(started):
    trained, method = started("source_only"), started("leaf")
    random = started("leaf", {"leaf": {"expert": {"start": "random"}}})
    expected = answers(trained, images())
    assert (answers(method, images()) - expected).abs().mean() < 0.3 * (
        answers(random, images()) - expected
    ).abs().mean()


def test_what_a_method_wants_from_a_trained_model_gives_way_to_what_is_given(started):
    given = started("la_cmfer", {"la_cmfer": {"network": {"stages": "published"}}})
    assert given.kept_heads == ()


def test_a_method_goes_on_from_a_model_of_its_own_kind(started, listener, tmp_path):
    first = started("la_cmfer")
    run(first, tmp_path / "first", listener())
    again = started("la_cmfer", init=tmp_path / "first")
    assert sorted(again.kept_heads) == ["global", "local"]
    found, expected = answers(again, images()), answers(first, images())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    with pytest.raises(UserInputError, match="cuts the backbone, and this run builds another"):
        started("source_only", init=tmp_path / "first")


@pytest.mark.parametrize(("preset", "init", "expected"), [("demo", "m", "backbone"), ("small", "m", "backbone"),
                         ("paper", "m", None), ("demo", None, None)])  # fmt: skip
def test_presets_know_a_trained_model(preset, init, expected):
    plugin = load_class(find_plugin("la_cmfer", installed_plugins()))
    network = own_preset(plugin, preset, [{"model": {"init": init}}]).get("la_cmfer", {}).get("network", {})
    assert network.get("stages") == expected


def test_rates_are_lower_from_a_trained_model():
    start = {"model": {"init": "m"}}
    layers = [[], [start], [start, {"optim": {"lr": 0.01}}]]
    rates = [assemble(["source_only"], own, preset="small").config.optim.lr for own in layers]
    assert rates == [1e-3, 3e-4, 0.01]


def test_a_head_with_a_hidden_layer_goes_on_with_none():
    linear = torch.nn.Linear(4, 3)
    hidden = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    assert {name: entry.layer for name, entry in heads_on_backbone({"a": linear, "b": hidden}).items()} == {"a": linear}


def test_other_weights_beside_a_trained_model_are_refused(source):
    with pytest.raises(UserInputError, match="model.weights=timm beside a model to start from"):
        with_initial([{"model": {"init": str(source), "weights": "timm"}}])


def test_a_head_on_features_of_length_one_goes_on_with_others_and_back(started, listener, tmp_path):
    """adacm's own model: each row of its features has length 1."""
    # An average of the weights would be what is kept.
    first = started("adacm", {"train": {"ema": None}})
    run(first, tmp_path / "first", listener())
    plain, again = (started(name, init=tmp_path / "first") for name in ("source_only", "adacm"))
    expected = answers(first, images())
    torch.testing.assert_close(answers(again, images()), expected, rtol=0, atol=1e-5)
    # Smaller by the mean length that rows have in the other network.
    table = plain.domains.sources[0]
    batch = next(eval_batches(table, plain.config.data, mean=plain.model.mean, std=plain.model.std))
    with torch.no_grad():
        length = plain.model.eval().backbone(batch.images[PLAIN]).norm(dim=1).mean()
    layers = [context.model.heads["main"][-1].weight for context in (again, plain)]
    torch.testing.assert_close(layers[0] / length, layers[1])
    assert abs(length - 1) > 0.01
