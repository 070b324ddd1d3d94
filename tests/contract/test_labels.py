"""No target label, no test image and no path reaches a plugin, through any hook."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fercore.builtin.supervised import SourceOnly
from fercore.config import Settings
from fercore.engine.run import run
from fercore.engine.setup import build_workshop
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import Company, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.schedule import ViewRequest


class Spy(Plugin):
    """Keeps everything that every hook is handed."""

    kind = "addon"

    def __init__(self):
        super().__init__("spy", Settings())
        self.seen = []

    @hookimpl
    def request_views(self, config):
        return [ViewRequest("target", "weak", "weak")]

    @hookimpl(wrapper=True)
    def encode(self, batch, view):
        self.seen.append(("encode", view, batch))
        return (yield)

    @hookimpl
    def pseudo_label(self, batch):
        self.seen.append(("pseudo_label", "", batch.target))

    @hookimpl
    def loss(self, batch):
        self.seen.append(("loss", "", batch.target))
        return []

    @hookimpl
    def build_sampler(self, dataset, side):
        self.seen.append(("build_sampler", side, dataset))

    @hookimpl
    def refresh(self, encode_dataset):
        self.seen.append(("refresh", "target", encode_dataset("target")))


def reachable(thing, depth=0):
    """Every value that can be reached from a record through its public attributes and items."""
    yield thing
    if depth > 4 or isinstance(thing, str | bytes | int | float | torch.Tensor | np.ndarray | type):
        return
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, list | tuple):
        inner = list(thing)[:50]
    elif dataclasses.is_dataclass(thing):
        inner = [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    else:
        inner = [value for name, value in vars(thing).items()] if hasattr(thing, "__dict__") else []
    for value in inner:
        yield from reachable(value, depth + 1)


@pytest.fixture
def spied(tiny, tmp_path, listener):
    spy = Spy()
    plugins = (SourceOnly("source_only", SourceOnly.Settings()), spy)
    infos = tuple(PluginInfo(name, "tests:X", "tests", "0", "") for name in ("source_only", "spy"))
    shop = build_workshop(Company(assemble(["source_only"], [tiny]).config, plugins, infos))
    run(shop, tmp_path / "run", listener())
    return shop, spy.seen


def test_target_samples_come_without_label_annotation_or_path(spied):
    _, seen = spied
    assert (
        sum(where == "none" for _, where, _ in seen) > 1
    )  # the spy encodes the target alone, the engine its test part
    assert {hook for hook, _, _ in seen} == {"encode", "pseudo_label", "loss", "build_sampler", "refresh"}
    for hook, where, thing in seen:
        if (hook, where) in (("encode", "weak"), ("build_sampler", "source")):
            continue  # the source, in training
        labels = np.asarray(thing.labels)
        assert (labels == -1).all(), (hook, where)
        assert set(getattr(thing, "extras", {})) <= {"au_scores"}, (hook, where)
        assert not [v for v in reachable(thing) if isinstance(v, str) and ("/" in v or ".png" in v)], (hook, where)


def test_the_sampler_sees_no_pixels_and_no_test_image(spied):
    shop, seen = spied
    for hook, side, info in seen:
        if hook == "build_sampler" and side == "target":
            assert len(info) == len(shop.domains.adaptation)
            assert not [v for v in reachable(info) if hasattr(v, "read") or callable(v)]


def test_adaptation_and_test_share_no_image(spied):
    shop, _ = spied
    from fercore.data.table import opaque

    assert not {opaque(key) for key in shop.domains.test.keys} & set(shop.domains.adaptation.keys)
