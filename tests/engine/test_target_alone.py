"""Runs without a labelled source: entropy on the target alone, as source-free methods adapt a trained model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fercore.arguments import request_of
from fercore.builtin.supervised import SourceOnly
from fercore.engine.model_record import read_features, read_record
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.checks import HookError, check_sources
from fercore.hooks.discovery import PluginInfo
from fercore.records.plan import ViewRequest
from fercore.records.step import LossTerm, Role

TARGET = "synthfer:wild?n=112&seed=2"
LAYER = {"train": {"checkpoint_every": 1}, "report": {"features": True}}


class Tent(Plugin):
    """Lowers the entropy of predictions on the target (Wang et al., ICLR 2021); notes what it is handed."""

    needs_source = False
    side = "target"
    asks = False
    seen: dict = {}

    @hookimpl
    def build_model(self, config, num_classes, task):
        self.seen["task"] = task
        return SourceOnly("tent", None).build_model(config, num_classes)

    @hookimpl
    def request_views(self):
        return [ViewRequest(self.side, "weak", "weak")]

    @hookimpl
    def plan(self, datasets):
        self.seen["sizes"] = {side: len(info) for side, info in datasets.items()}

    @hookimpl
    def build_sampler(self, side):
        self.seen.setdefault("sampled", set()).add(side)

    @hookimpl
    def refresh(self, encode_dataset):
        self.seen["encoded"] = len(encode_dataset("source" if self.asks else "target").labels)

    @hookimpl
    def loss(self, batch, encoded):
        self.seen["source"] = batch.source
        log_p = encoded["target", "weak"].logits["main"].log_softmax(1)
        return [LossTerm("tent/entropy", Role.REGULARISER, -(log_p.exp() * log_p).sum(1).mean())]


@pytest.fixture(scope="module")
def alone(tiny):
    def make(*layers, **own):
        config = assemble(["source_only"], [tiny, LAYER, *layers]).config
        data = config.data.model_copy(update={"sources": ()})
        config = config.model_copy(update={"plugins": {}, "data": data})
        Tent.seen.clear()
        plugin = type("Tent", (Tent,), own)("tent", None)
        return build_context(ResolvedRun(config, (plugin,), (PluginInfo("tent", "tests:Tent", "tests", "0", ""),)))

    return make


@pytest.fixture(scope="module")
def whole(alone, listener, weights_of, tmp_path_factory):
    """What a run leaves, and what its method saw."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    record = run(alone(), folder, listener())
    return folder, record, dict(Tent.seen), weights_of(folder)


def test_a_run_of_the_target_alone_is_whole(whole):
    folder, record, _, _ = whole
    assert record.sources == []
    assert record.target.n_adaptation == 56
    assert record.target.test_images_in_sources == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    entropies = [line["terms"]["tent/entropy"] for line in lines if line["kind"] == "step"]
    assert entropies[-1] < entropies[0]
    with np.load(folder / "features.npz") as arrays:
        assert len(arrays["labels"]) == 56
        assert not [name for name in arrays if name.startswith("source/")]
    assert (
        json.loads((folder / "data.json").read_text())["class_rule"]
        == "those of the target's labels; there is no source"
    )
    model = read_record(folder / "model")
    assert (model.provenance.sources, model.shift, read_features(folder / "model")) == ([], None, {})


def test_its_method_gets_a_source_side_without_a_sample(whole):
    _, _, seen, _ = whole
    assert seen["task"].sources == ()
    assert seen["sizes"] == {"source": 0, "target": 56}
    assert seen["sampled"] == {"target"}
    assert seen["encoded"] == 56
    source = seen["source"]
    assert (len(source), dict(source.images), source.domain_counts()) == (0, {}, ())


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_it_resumes_to_the_bit(alone, whole, tmp_path, listener, weights_of, workers):
    layer = {"data": {"workers": workers}}
    with pytest.raises(KeyboardInterrupt):
        run(alone(layer), tmp_path / "cut", listener(stop_after=5))
    run(alone(layer), tmp_path / "cut", listener(), resume=True)
    left, right = whole[-1]["model"], weights_of(tmp_path / "cut")["model"]
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def test_memory_format_is_timed_without_a_source(alone, tmp_path, listener):
    layer = {"train": {"steps": 1, "memory_format": "auto"}}
    assert run(alone(layer), tmp_path / "run", listener()).arithmetic.memory_format != "auto"


def test_a_source_that_is_not_there_is_not_asked_for(alone, tmp_path, listener):
    with pytest.raises(HookError, match="a view of the source is asked for, and the run has no source"):
        alone(side="source")
    with pytest.raises(HookError, match=r"encode_dataset\('source'\): the run has no source"):
        run(alone(asks=True), tmp_path / "run", listener())


def test_classes_of_an_unlabelled_target_are_named_by_the_settings(alone, tree):
    data = {"target": f"list:{_unlabelled(tree)}", "size": 16, "target_batch": 4}
    with pytest.raises(UserInputError, match="which classes there are") as caught:
        alone({"data": data})
    assert caught.value.where == "data.classes"
    context = alone({"data": {**data, "classes": ["anger", "happiness"]}})
    assert context.domains.classes == ("anger", "happiness")


def _unlabelled(tree):
    root = tree("faces", {"a": 16})
    listed = root / "faces.txt"
    listed.write_text("".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*.png"))))
    return listed


def test_a_target_alone_is_for_methods_that_need_no_source():
    layers = request_of(target=TARGET).layers
    assert layers[-1] == {"data": {"sources": []}}
    with pytest.raises(UserInputError, match="plugin 'la_cmfer' needs a labelled source") as caught:
        assemble(["la_cmfer"], layers)
    assert caught.value.where == "--source"
    check_sources([Tent("tent", None)], ())
    with pytest.raises(UserInputError, match="--target is missing"):
        request_of(source=[TARGET])
