"""Channels first or last: chosen once for a network and machine, recorded, kept on resuming; values stay."""

from __future__ import annotations

import json
from importlib.metadata import entry_points

import pytest
import torch

from fercore.config import read_toml
from fercore.engine import memory_format
from fercore.engine.run import run
from fercore.errors import UserInputError
from tests.contract.chosen import CHOSEN

AUTO = {"train": {"memory_format": "auto"}}
LAST = {"train": {"memory_format": "channels_last", "fused_optimiser": True}}


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memory_format.json"


def pixel_by_pixel(model):
    kernel = next(p for p in model.backbone.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1)
    return kernel.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_the_choice_is_recorded_and_remembered(make_context, memory, tmp_path, listener, monkeypatch):
    times = iter([9, 9, 2, 1, 2, 1])  # contiguous, channels last, in turns; the first round does not count
    monkeypatch.setattr(memory_format, "_seconds", lambda *_: next(times))
    run(make_context("source_only", layers=(AUTO,)), tmp_path / "a", listener())
    assert read_toml(tmp_path / "a" / "config.toml")["train"]["memory_format"] == "channels_last"
    found = json.loads((tmp_path / "a" / "result.json").read_text())["arithmetic"]
    assert (found["memory_format"], found["precision"], found["compile"]) == ("channels_last", "32-true", False)
    assert list(json.loads(memory.read_text()).values()) == ["channels_last"]
    assert memory_format.choose(make_context("source_only", layers=(AUTO,))) == "channels_last"  # remembered


@pytest.mark.parametrize("damage", ["", "[1]", '{"x": 1', "null"])
def test_a_damaged_memory_is_made_again(make_context, memory, damage):
    memory.parent.mkdir()
    memory.write_text(damage)
    assert memory_format.choose(make_context("source_only", layers=(AUTO,))) in memory_format.FORMATS
    assert len(json.loads(memory.read_text())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in CHOSEN else pytest.mark.soak)
        for name in sorted(e.name for e in entry_points(group="fercore.plugins"))
    ],
)
def test_timing_leaves_network_and_generators_alone(make_context, name):
    try:
        context = make_context(name, layers=(AUTO,))
    except UserInputError as error:  # an add-on alone, or a method that wants other data: their own tests have them
        pytest.skip(str(error))
    before = {key: value.clone() for key, value in context.model.state_dict().items()}
    memory_format.choose(context)
    drawn = torch.rand(3)
    again = make_context(name, layers=(AUTO,))
    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(value, before[key]) for key, value in context.model.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in again.model.state_dict().items())
    assert all(p.grad is None for p in context.model.parameters())


@pytest.mark.slow
def test_a_resumed_run_keeps_format_and_bits(make_context, tmp_path, listener, weights_of):
    layers = (LAST, {"train": {"ema": 0.9}, "optim": {"name": "adamw"}})
    run(make_context("la_cmfer", layers=layers), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(make_context("la_cmfer", layers=layers), tmp_path / "cut", listener(stop_after=4))
    context = make_context("la_cmfer", layers=layers)
    run(context, tmp_path / "cut", listener(), resume=True)
    assert pixel_by_pixel(context.model)
    assert pixel_by_pixel(context.average.model)
    whole, cut = (weights_of(tmp_path / name) for name in ("whole", "cut"))
    assert whole["model"].keys() == cut["model"].keys()
    assert all(torch.equal(value, cut["model"][key]) for key, value in whole["model"].items())
    assert all(torch.equal(value, cut["average"]["model"][key]) for key, value in whole["average"]["model"].items())


def test_the_format_changes_no_value_beyond_rounding(make_context):
    context = make_context("source_only")
    images = torch.rand(4, 3, 32, 32)
    context.model.eval()
    with torch.no_grad():
        before = context.model(images).logits["main"]
        memory_format.apply(context.model, "channels_last")
        torch.testing.assert_close(context.model(images).logits["main"], before, rtol=1e-4, atol=1e-5)
