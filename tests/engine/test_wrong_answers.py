"""A run in which a plugin answers wrongly, or leaves, has no result, and the error names the plugin."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Sampler

from fercore.builtin.supervised import SourceOnly
from fercore.config import Settings
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.checks import HookError
from fercore.hooks.discovery import PluginInfo


def context_of(tiny, **hooks):
    body = {"kind": "addon", **{name: hookimpl(function, wrapper=True) for name, function in hooks.items()}}
    offending = type("Offending", (Plugin,), body)("offending", Settings())
    infos = tuple(PluginInfo(name, "tests:X", "tests", "0", "") for name in ("source_only", "offending"))
    config = assemble(["source_only"], [tiny]).config
    return build_context(ResolvedRun(config, (SourceOnly("source_only", SourceOnly.Settings()), offending), infos))


def narrow(self):
    return (yield)[:, :-2]


def broad(self):
    probs = yield
    return torch.cat([probs, torch.zeros(len(probs), 1)], dim=1)


@pytest.mark.parametrize("answer", [narrow, broad])
def test_probabilities_of_other_classes_score_nothing(tiny, tmp_path, listener, answer):
    context = context_of(tiny, predict=answer)
    with pytest.raises(HookError, match="plugin 'offending'.*hook 'predict'.*one column for each of 7 classes"):
        run(context, tmp_path / "run", listener())
    assert not (tmp_path / "run/result.json").exists()
    assert not (tmp_path / "run/predictions.csv").exists()


class Leaver(nn.Module):
    def forward(self, images):
        raise SystemExit(0)


def test_a_network_that_calls_exit_ends_no_run(tiny, tmp_path, listener):
    def leaving(self):
        model = yield
        model.branches["main"] = Leaver()
        return model

    context = context_of(tiny, build_model=leaving)
    with pytest.raises(HookError, match=r"run by hook 'encode',: called sys\.exit\(0\)"):
        run(context, tmp_path / "run", listener())
    assert not (tmp_path / "run/result.json").exists()


def test_a_backbone_that_calls_exit_ends_no_run(tiny):
    def leaving(self):
        model = yield
        model.backbone = Leaver()
        return model

    with pytest.raises(HookError, match=r"sys\.exit\(0\) was called inside a run"):
        context_of(tiny, build_model=leaving)


def test_a_sampler_that_calls_exit_ends_no_run(tiny, tmp_path, listener):
    class Leaving(Sampler):
        def __iter__(self):
            raise SystemExit(0)

    def sampled(self):
        yield
        return Leaving()

    with pytest.raises(HookError, match=r"plugin 'offending'.*hook 'build_sampler': called sys\.exit\(0\)"):
        run(context_of(tiny, build_sampler=sampled), tmp_path / "run", listener())


def test_a_plugin_that_calls_exit_when_it_is_made_ends_no_run(tiny, monkeypatch):
    def leave(self, name, settings):
        raise SystemExit(0)

    monkeypatch.setattr(SourceOnly, "__init__", leave)
    with pytest.raises(HookError, match=r"sys\.exit\(0\) was called inside a run"):
        assemble(["source_only"], [tiny])
