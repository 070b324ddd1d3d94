"""Going on with a run: with the settings it was trained with, and longer only where that changes nothing before."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest
import torch

from fercore.builtin.supervised import SourceOnly
from fercore.engine.observer import Observer
from fercore.engine.resume import check_resume
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.hooks.plans import single_stage
from fercore.runs.folder import RunFolder

EDITS = [
    ({"optim": {"lr": 0.5}}, "optim.lr 0.002 -> 0.5"),
    ({"optim": {"weight_decay": 0}}, "optim.weight_decay 0.01 -> 0.0"),
    ({"optim": {"schedule": "linear"}}, 'optim.schedule "cosine" -> "linear"'),
    ({"optim": {"schedule_steps": 9}}, "optim.schedule_steps not given -> 9"),
    ({"data": {"augment": "none"}}, 'data.augment "light" -> "none"'),
    ({"data": {"sources": ["synthfer:web?n=84"]}}, '-> ["synthfer:web?n=84"]'),
    ({"source_only": {"label_smoothing": 0.1}}, "source_only.label_smoothing 0.0 -> 0.1"),
    ({"model": {"backbone_args": {"resnet18": {"channels": [8, 8, 8, 16]}}}}, "resnet18.channels [8, 8, 8, 8] ->"),
    ({"train": {"steps": 5}}, "train.steps 6 -> 5"),
    ({"train": {"steps": 8, "ema": 0.9}}, "train.ema not given -> 0.9, train.steps 6 -> 8"),
]
FREE = {"optim": {"schedule": "cosine", "schedule_steps": 6, "warmup_steps": 2}}
"""A schedule that says itself how long it is."""


def steps(number, **more):
    return {**FREE, "train": {"steps": number, **more}}


def same_bits(left, right):
    return all(torch.equal(left["model"][key], right["model"][key]) for key in left["model"])


@pytest.mark.slow
def test_settings_that_were_edited_are_named_and_refused(tmp_path, tiny, make_context, listener):
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only"), tmp_path / "run", listener(stop_after=4))
    folder = RunFolder(tmp_path / "run")
    check_resume(folder, assemble(["source_only"], [tiny]))
    for layer, told in EDITS:
        with pytest.raises(UserInputError, match="settings are not those that the run has been trained with") as error:
            check_resume(folder, assemble(["source_only"], [tiny, layer]))
        assert told in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserInputError, match="optim.lr 0.002 -> 0.5"):
        run(make_context("source_only", layers=({"optim": {"lr": 0.5}},)), tmp_path / "run", listener(), resume=True)


def test_the_order_of_plugins_is_a_setting(tmp_path, tiny, make_context, listener):
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only", "leaf_eaf"), tmp_path / "run", listener(stop_after=4))
    with pytest.raises(UserInputError, match=r'plugin \["source_only", "leaf_eaf"\] -> \["leaf_eaf", "source_only"\]'):
        check_resume(RunFolder(tmp_path / "run"), assemble(["leaf_eaf", "source_only"], [tiny]))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [None, 3])
def test_a_longer_run_is_to_the_bit_what_it_would_have_been(tmp_path, make_context, listener, weights_of, stop):
    watch = {"select": {"oracle": True}}
    every = {"eval_every": 2, "ema": 0.9}
    whole = run(make_context("source_only", layers=(steps(6, **every), watch)), tmp_path / "whole", listener())
    short = make_context("source_only", layers=(steps(4, **every), watch))
    if stop is None:
        assert run(short, tmp_path / "run", listener()).steps == 4
    else:
        with pytest.raises(KeyboardInterrupt):
            run(short, tmp_path / "run", listener(stop_after=stop + 1))
    with pytest.raises(KeyboardInterrupt):  # killed before there is a checkpoint of the longer run
        longer = make_context("source_only", layers=(steps(6, **every), watch))
        run(longer, tmp_path / "run", listener(stop_after=5), resume=True)
    assert not (tmp_path / "run/result.json").exists()
    settings = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert settings["train"]["steps"] == 6
    longer = run(make_context("source_only", layers=(settings,)), tmp_path / "run", listener(), resume=True)
    assert (longer.steps, longer.target, longer.selection) == (whole.steps, whole.target, whole.selection)
    assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "run"))


class Rival(Observer):
    """Tries to get at a run that is trained."""

    def __init__(self, path):
        self.path, self.refused = path, 0

    def step(self, report, done):
        with pytest.raises(UserInputError, match="another process is at work in that run"):
            RunFolder(self.path).refuse_in_use()
        self.refused += 1


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True])
def test_a_run_is_one_process_at_a_time(tmp_path, make_context, listener, weights_of, there):
    path = tmp_path / "run"
    if there:
        path.mkdir()
    rival = Rival(path)
    run(make_context("source_only", layers=(steps(4),)), path, rival)
    assert rival.refused == 4
    other, longer = RunFolder(path), make_context("source_only", layers=(steps(6),))
    other.lock()
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    with pytest.raises(UserInputError, match="another process is at work in that run"):
        run(longer, path, listener(), resume=True)
    assert {file: file.read_bytes() for file in before} == before
    other.release()
    run(longer, path, rival, resume=True)
    assert rival.refused == 6


@pytest.mark.slow
def test_a_copy_without_the_empty_folder_of_checkpoints_goes_on(tmp_path, make_context, listener, weights_of):
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only", layers=(steps(4, checkpoint_every=4),)), path, listener(stop_after=2))
    (path / "checkpoints").rmdir()
    run(make_context("source_only", layers=(steps(4, checkpoint_every=4),)), path, listener(), resume=True)
    run(make_context("source_only", layers=(steps(4, checkpoint_every=4),)), tmp_path / "whole", listener())
    assert same_bits(weights_of(path), weights_of(tmp_path / "whole"))


class Staged(SourceOnly):
    """Two stages; the first takes a third of the steps, or three."""

    first: int | None = None

    @hookimpl
    def plan(self, config):
        stage = single_stage(config, "last")
        first = self.first or stage.steps // 3
        return [replace(stage, name="first", steps=first), replace(stage, steps=stage.steps - first)]


class Fixed(SourceOnly):
    """Has a length of its own."""

    @hookimpl
    def plan(self, config):
        return [replace(single_stage(config), steps=4)]


class Silent(SourceOnly):
    """Says nothing about its length."""

    goes_by_length = Plugin.goes_by_length


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layer", "told"),
    [
        (SourceOnly, {}, "the cosine schedule of phase 'main' goes by the length"),
        (SourceOnly, {"optim": {"schedule": "inverse_decay"}}, "the inverse_decay schedule of phase"),
        (SourceOnly, {"optim": {"schedule": "constant"}}, None),
        (Silent, FREE, "source_only goes by the length (it does not say that it does not"),
        (Fixed, FREE, "its length is not set by train.steps"),
        (Staged, FREE, "its stage 'first' would have been another"),
        (type("Thrice", (Staged,), {"first": 3}), FREE, None),
    ],
)  # fmt: skip
def test_only_what_does_not_go_by_its_length_becomes_longer(tmp_path, tiny, listener, weights_of, kind, layer, told):
    def context(number):
        config = assemble(["source_only"], [tiny, layer, {"train": {"steps": number}}]).config
        info = PluginInfo("source_only", "tests:X", "tests", "0", "")
        return build_context(ResolvedRun(config, (kind("source_only", SourceOnly.Settings()),), (info,)))

    run(context(6), tmp_path / "run", listener())
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    if told is None:
        assert run(context(9), tmp_path / "run", listener(), resume=True).steps == 9
        run(context(9), tmp_path / "whole", listener())
        assert same_bits(weights_of(tmp_path / "whole"), weights_of(tmp_path / "run"))
        return
    with pytest.raises(UserInputError, match="a run of 6 steps cannot become one of 9: ") as error:
        run(context(9), tmp_path / "run", listener(), resume=True)
    assert told in str(error.value)
    assert {path: path.read_bytes() for path in before} == before
