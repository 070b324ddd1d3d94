"""Streams: one pass in a given order, predictions before the weights move, a way back to the initial model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import fercore
from fercore.builtin.supervised import SourceOnly
from fercore.config import StreamSettings
from fercore.data.batches.sampling import StreamOrder, stream_order
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.evaluation.collapse import Watch, effective_classes, run_correlation
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.checks import HookError
from fercore.hooks.discovery import PluginInfo
from fercore.hooks.plans import single_stage
from fercore.records.plan import Reset, Stage, ViewRequest
from fercore.records.step import LossTerm, Role

LAYER = {
    "data": {"target_batch": 10, "augment": "none"},
    "train": {"checkpoint_every": 1, "memory_format": "contiguous"},
    "optim": {"lr": 0.05, "schedule": "constant"},
}


class Streamed(Plugin):
    """Lowers the entropy of a stream's predictions; its settings are the class's."""

    needs_source = False
    trains, ask_reset_at, seen = True, None, None

    @hookimpl
    def build_model(self, config, num_classes):
        return SourceOnly("streamed", None).build_model(config, num_classes)

    @hookimpl
    def request_views(self):
        return [ViewRequest("target", "stream", "none")]

    @hookimpl
    def plan(self, config):
        phases = single_stage(config).phases if self.trains else ()
        return [Stage("stream", epochs=1, phases=phases, stream=True)]

    @hookimpl
    def encode(self, model, batch, view, purpose):
        model.train(self.trains and purpose == "train")
        return model(batch.images[view])

    @hookimpl
    def loss(self, batch, encoded):
        if self.seen is not None:
            self.seen.append((batch.target.index.tolist(), encoded["target", "stream"].logits["main"].detach()))
        log_p = encoded["target", "stream"].logits["main"].log_softmax(1)
        return [LossTerm("streamed/entropy", Role.REGULARISER, -(log_p.exp() * log_p).sum(1).mean())]

    @hookimpl
    def after_step(self, clock):
        return Reset("asked for") if clock.step == self.ask_reset_at else None


@pytest.fixture(scope="module")
def streamed(tiny):
    def make(*layers, **own):
        config = assemble(["source_only"], [tiny, LAYER, *layers]).config
        data = config.data.model_copy(update={"sources": ()})
        config = config.model_copy(update={"plugins": {}, "data": data})
        plugin = type("Streamed", (Streamed,), own)("streamed", None)
        info = PluginInfo("streamed", "tests:Streamed", "tests", "0", "")
        return build_context(ResolvedRun(config, (plugin,), (info,)))

    return make


def test_every_image_comes_once_in_the_order_and_is_scored_as_it_was_first_answered(streamed, tmp_path, listener):
    seen = []
    context = streamed({"stream": {"order": "ordered"}}, seen=seen)
    record = run(context, tmp_path / "run", listener())
    order = [i for indices, _ in seen for i in indices]
    assert sorted(order) == list(range(56))
    assert [len(indices) for indices, _ in seen] == [10, 10, 10, 10, 10, 6]
    rows = context.domains.adaptation.rows[order]
    assert (np.diff(rows) > 0).all()
    online = record.online
    probs = torch.cat([logits for _, logits in seen]).softmax(1)
    truth = context.domains.truth[order]
    assert online.accuracy == pytest.approx(float((probs.argmax(1).numpy() == truth).mean()))
    assert (online.n, online.batch, online.order_uses_target_labels) == (56, 10, False)
    assert (record.steps, record.target.n) == (6, 56)
    lines = (tmp_path / "run" / "online.csv").read_text().splitlines()
    assert len(lines) == 57
    assert lines[1].split(",")[1] == context.domains.classes[int(probs[0].argmax())]
    assert fercore.open_run(tmp_path / "run").result.online.n == 56


@pytest.mark.slow
@pytest.mark.parametrize("layer", [{}, {"stream": {"reset_every": 20}}])
def test_a_stream_that_was_cut_goes_on_to_the_same_bits(streamed, tmp_path, listener, weights_of, layer):
    whole = run(streamed(layer), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(streamed(layer), tmp_path / "cut", listener(stop_after=4))
    cut = run(streamed(layer), tmp_path / "cut", listener(), resume=True)
    assert cut.online == whole.online
    assert (tmp_path / "cut" / "online.csv").read_bytes() == (tmp_path / "whole" / "online.csv").read_bytes()
    left, right = (weights_of(tmp_path / name)["model"] for name in ("whole", "cut"))
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


@pytest.mark.slow
def test_without_a_phase_nothing_is_trained_and_batches_of_one_pass(streamed, tmp_path, listener):
    context = streamed({"data": {"target_batch": 1}}, trains=False)
    before = {name: p.clone() for name, p in context.model.named_parameters()}
    record = run(context, tmp_path / "run", listener())
    assert (record.steps, record.online.n, record.online.batch) == (56, 56, 1)
    assert before
    assert all(torch.equal(before[name], p) for name, p in context.model.named_parameters())


def test_a_reset_puts_weights_and_momentum_back(streamed, tmp_path, listener, weights_of):
    seen = []
    record = run(streamed(ask_reset_at=5), tmp_path / "run", listener())
    assert record.online.resets == {"asked for": 1}
    context = streamed(seen=seen)
    state = weights_of(tmp_path / "run")
    assert all(torch.equal(context.model.state_dict()[name], value) for name, value in state["model"].items())
    assert state["optimisers"][0]["optimiser"]["state"] == {}
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["images"], line["reason"]) for line in log if line["kind"] == "reset"] == [(56, "asked for")]


@pytest.mark.parametrize("alarm", ["stop", "reset", "off"])
def test_an_alarm_falls_back_to_the_initial_model_and_says_so(streamed, tmp_path, listener, monkeypatch, alarm):
    monkeypatch.setattr(Watch, "alarm", lambda watch: "collapsed" if len(watch.initial) >= 10 else "")
    heard, seen = listener(), []
    context = streamed({"stream": {"alarm": alarm, "watch_every": 2}}, seen=seen)
    record = run(context, tmp_path / "run", heard)
    online = record.online
    if alarm == "off":
        assert (online.alarms, online.stopped_at, len(seen)) == ([], None, 6)
        return
    assert online.alarms[0] == "after 20 images: collapsed"
    assert any("alarm after 20 images: collapsed" in line for line in heard.messages)
    assert (online.stopped_at, len(seen)) == ((20, 2) if alarm == "stop" else (None, 6))
    if alarm == "stop":
        before = streamed().model.state_dict()
        assert all(torch.equal(before[name], value) for name, value in context.model.state_dict().items())


def test_one_stream_a_run(streamed):
    two = [Stage(name, epochs=1, stream=True) for name in ("one", "two")]
    with pytest.raises(HookError, match="one stream at most"):
        streamed(plan=hookimpl(lambda self: two))
    with pytest.raises(ValueError, match="passes once"):
        Stage("stream", epochs=2, stream=True)


def test_correlated_streams_hold_runs_of_a_class_and_every_sample_once():
    labels = np.repeat(np.arange(5), 40)
    rows = np.random.default_rng(0).permutation(200)

    def order(**how):
        return stream_order(labels, rows, StreamSettings(**how), 7)

    def kept(positions):
        return float((np.diff(labels[positions]) == 0).mean())

    assert rows[order(order="ordered")].tolist() == list(range(200))
    shuffled, few, many = order(), order(order="correlated"), order(order="correlated", dirichlet=100.0)
    assert all(sorted(each.tolist()) == list(range(200)) for each in (shuffled, few, many))
    assert kept(shuffled) < 0.35 < 0.8 < kept(many) < kept(few)
    assert np.array_equal(few, order(order="correlated"))
    taken = StreamOrder(few, 64, start=3)
    assert [len(taken.take(step)) for step in range(3, 3 + taken.steps)] == [64, 64, 64, 8]


MIXED = torch.arange(512) * 3 % 7
RUNS = torch.where(torch.arange(512) % 5 > 0, torch.arange(512) // 64 % 7, MIXED)
ONE = torch.zeros(512, dtype=torch.int64)


@pytest.mark.parametrize(
    ("initial", "adapted", "words"),
    [
        (MIXED, MIXED, ""),
        (MIXED, ONE, "collapsed to 1.0 classes .* gives 7.0"),
        (RUNS, MIXED, "scatter in a correlated stream: .* -0.0.*, of the initial model 0.6"),
        (MIXED, RUNS, ""),
        (RUNS, RUNS, ""),
        (ONE, ONE, ""),
        (MIXED[:200], ONE[:200], ""),
    ],
)
def test_what_sounds_the_alarm(initial, adapted, words):
    watch = Watch(7)
    watch.add(*(torch.nn.functional.one_hot(labels, 7).float() for labels in (initial, adapted)))
    assert (watch.alarm() == "") == (words == "")
    if words:
        assert re.search(words, watch.alarm())
    again = Watch(7)
    again.load_state_dict(watch.state_dict())
    assert again.alarm() == watch.alarm()


def test_the_numbers_behind_the_alarm():
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert effective_classes(labels, 7) == pytest.approx(2.0)
    rows = torch.nn.functional.one_hot(labels, 7).double()
    rows = rows - rows.mean(0)
    pairs = [(i, j) for start in (0, 3) for i in range(start, start + 3) for j in range(start, start + 3) if i != j]
    literal = sum(float(rows[i] @ rows[j]) for i, j in pairs) / len(pairs) / float(rows.square().sum() / 6)
    assert run_correlation(torch.cat([labels[:1], labels]), 7, 3) == pytest.approx(literal) == 1.0
    assert run_correlation(torch.tensor([0, 1, 0, 1]), 7, 2) == pytest.approx(-1.0)
