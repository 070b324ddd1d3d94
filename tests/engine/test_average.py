"""train.ema: an average of the weights that is reported, saved, resumed to the bit, and never trained."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from fercore.builtin.supervised import SourceOnly
from fercore.engine.average import WeightAverage
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks import hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.models import External, Model, SizedByData
from fercore.records.result import Average

EMA = {"train": {"ema": 0.7}}


def small_model() -> Model:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Model(backbone, {"main": nn.Identity()}, {"main": nn.Linear(4, 3)}, (0.0,) * 3, (1.0,) * 3)
    model.parts["test/record"] = SizedByData({"kept": torch.zeros(0), "number": torch.tensor(0)})
    return model


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.mark.slow
@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_the_average_is_the_literal_one(fabric, buffers):
    model = small_model()
    average = WeightAverage(model, 0.9, buffers)
    expected = {}
    for step in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model.train()
        model(torch.randn(5, 3, 8, 8))
        average.update(model)
        for name, tensor in model.state_dict().items():
            now = tensor.double().numpy().copy()
            averaged = name in dict(model.named_parameters()) or (buffers == "average" and "running" in name)
            expected[name] = now if step == 0 or not averaged else 0.9 * expected[name] + 0.1 * now
    for name, tensor in average.model.state_dict().items():
        np.testing.assert_allclose(tensor.double().numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert not any(p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_constants_of_the_network_are_not_averaged(fabric):
    model = small_model()
    mask = torch.full((2, 2), float("-inf")).triu(1)
    model.backbone.register_buffer("mask", mask.clone(), persistent=False)
    frozen = nn.BatchNorm1d(2)
    frozen.register_buffer("mask", mask.clone(), persistent=False)
    model.backbone.add_module("frozen", External(frozen, {"seed": 0}))
    average = WeightAverage(model, 0.9, "average")
    for _ in range(3):
        average.update(model)
    assert torch.equal(average.model.backbone.mask, mask)
    assert torch.equal(average.model.backbone.frozen.module.mask, mask)


def test_the_average_has_the_plugins_buffers_whatever_their_shape(fabric):
    model = small_model()
    average = WeightAverage(model, 0.9, "copy")
    model.parts["test/record"].put("kept", torch.arange(5.0))
    model.parts["test/record"].number.fill_(3)
    followed = average.follow(model).parts["test/record"]
    assert followed.kept.tolist() == [0, 1, 2, 3, 4]
    assert followed.number == 3
    followed.kept.fill_(9)
    assert model.parts["test/record"].kept.tolist() == [0, 1, 2, 3, 4]


def test_the_averages_forward_is_its_own(fabric):
    model = small_model()
    average = WeightAverage(model, 0.5, "copy")
    images = torch.randn(2, 3, 8, 8)
    model.eval()
    average.model.eval()
    before = average.model(images).logits["main"].clone()
    with torch.no_grad():
        model.heads["main"].bias.add_(1)
    assert torch.equal(average.model(images).logits["main"], before)
    assert not torch.equal(model(images).logits["main"], before)


@pytest.mark.slow
def test_a_run_reports_the_average_and_resumes_it_to_the_bit(make_context, tmp_path, listener, weights_of):
    data = {
        "data": {"sources": ["synthfer:wild?n=140&seed=2&labels=28"], "target": "synthfer:wild?n=140&seed=2&labels=28"}
    }
    context = make_context("source_only", layers=(EMA, data))
    whole = run(context, tmp_path / "whole", listener())
    assert whole.ema == Average(decay=0.7, buffers="copy")
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only", layers=(EMA, data)), tmp_path / "cut", listener(stop_after=5))
    again = run(make_context("source_only", layers=(EMA, data)), tmp_path / "cut", listener(), resume=True)
    left, right = weights_of(tmp_path / "whole")["average"], weights_of(tmp_path / "cut")["average"]
    assert left["steps"] == right["steps"] == 6
    assert [key for key in left["model"] if not torch.equal(left["model"][key], right["model"][key])] == []
    assert again.target == whole.target
    trained = weights_of(tmp_path / "whole")["model"]
    assert not torch.equal(left["model"]["heads.main.1.weight"], trained["heads.main.1.weight"])
    probs = context.evaluator.predict(context.average.model, context.domains.test, None).probs
    with (tmp_path / "whole/predictions.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    tested = rows[context.domains.test.keys[0]]
    assert [f"{p:.6f}" for p in probs[0]] == [tested[name] for name in context.domains.classes]
    parts = [row["part"] for row in rows.values()]
    assert {part: parts.count(part) for part in ("test", "labelled", "adaptation", "unused")} == {
        "test": whole.target.n,
        "labelled": 28,
        "adaptation": whole.target.n_adaptation,
        "unused": 140 - 28 - whole.target.n - whole.target.n_adaptation,
    }
    kept = json.loads((tmp_path / "whole/labelled.json").read_text())
    assert kept == context.domains.label_split
    assert whole.label_split.counts.labelled == 28


class Writer(SourceOnly):
    """Sets the bias of its head as the second epoch begins, before and after it encodes the target."""

    heard: list = []

    @hookimpl
    def refresh(self, model, clock, encode_dataset):
        if clock.epoch == 1:
            bias = model.heads["main"][1].bias
            with torch.no_grad():
                bias.fill_(0.0)[2] = 1e4
            self.heard.append(encode_dataset("target").logits["main"].argmax(1).unique().tolist())
            with torch.no_grad():
                bias.copy_(torch.arange(7.0))


def test_what_a_plugin_writes_as_an_epoch_begins_reaches_the_average_at_once(tiny, tmp_path, listener):
    layers = [tiny, EMA, {"train": {"steps": 4, "steps_per_epoch": 2, "checkpoint_every": 1}}]
    config = assemble(["source_only"], layers).config.model_copy(update={"plugins": {}})
    info = PluginInfo("writer", "tests:Writer", "tests", "0", "")
    context = build_context(ResolvedRun(config, (Writer("writer", SourceOnly.Settings()),), (info,)))
    Writer.heard.clear()
    run(context, tmp_path / "run", listener())
    assert Writer.heard == [[2]]
    trained, averaged = (model.heads["main"][1] for model in (context.model, context.average.model))
    torch.testing.assert_close(averaged.bias, torch.arange(7.0), rtol=0, atol=0.1)  # two small steps from there
    assert not torch.equal(averaged.weight, trained.weight)  # not written, so averaged as ever


def test_only_parameters_that_differ_are_adopted(fabric):
    model = small_model()
    average = WeightAverage(model, 0.9, "copy")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    before = [p.detach().clone() for p in model.parameters()]
    kept = [p.detach().clone() for p in average.model.parameters()]
    with torch.no_grad():
        model.heads["main"].bias.fill_(3.0)
    average.adopt(model, before)
    assert average.model.heads["main"].bias.tolist() == [3.0] * 3
    names = [name for name, _ in model.named_parameters()]
    same = {n for n, old, p in zip(names, kept, average.model.parameters(), strict=True) if torch.equal(old, p)}
    assert same == set(names) - {"heads.main.bias"}


def test_a_run_without_an_average_says_so(make_context, tmp_path, listener, weights_of):
    record = run(make_context("source_only", layers=({"train": {"steps": 2}},)), tmp_path / "run", listener())
    assert record.ema is None
    assert record.label_split is None
    assert record.primary_metric == "accuracy"
    assert weights_of(tmp_path / "run")["average"] is None
    assert not (tmp_path / "run/labelled.json").exists()


def test_the_score_that_leads_stands_first(make_context, tmp_path, listener, capsys):
    from fercore import console
    from fercore.experiments import comparison
    from fercore.records.result import Result

    layers = ({"train": {"steps": 2, "ema": 0.9}},)
    values = run(make_context("source_only", layers=layers), tmp_path / "run", listener()).to_json()
    target = {**values["target"], "accuracy": 0.5, "balanced_accuracy": 0.25, "macro_f1": 0.125}
    counts = {"parameters": {"total": 1234567, "trained": 1000}, "seconds_per_step": 0.25}
    values = {**values, **counts, "target": target, "primary_metric": "balanced_accuracy"}
    record, plain = Result.model_validate(values), Result.model_validate({**values, "primary_metric": "accuracy"})
    assert record.to_json() == values
    console.print_result(record)
    text = capsys.readouterr().out
    assert text.index("0.2500") < text.index("0.5000")
    assert "weights averaged" in text
    assert "1,000 of 1,234,567 parameters trained, 0.250 s a step, peak memory " in text
    rows = comparison.summarise({"m": [record]})
    assert comparison.leading_score({"a": [plain], "m": [record]}) == "balanced_accuracy"
    assert comparison.leading_score({"a": [plain]}) == "accuracy"
    assert comparison.table_head("balanced_accuracy")[1] == "balanced"
    assert comparison.table_rows(rows, "balanced_accuracy")[0][1].startswith("25.0")
    assert comparison.table_rows(rows)[0][1].startswith("50.0")
    by_f1 = Result.model_validate({**values, "primary_metric": "macro_f1"})
    assert comparison.leading_score({"a": [plain], "m": [by_f1]}) == "macro_f1"
    assert comparison.table_head("macro_f1")[1::2] == ("macro F1", "accuracy", "balanced", "macro F1 by seed")
    assert comparison.table_rows(rows, "macro_f1")[0][1].startswith("12.5")
