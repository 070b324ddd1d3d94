"""Optimisers, schedules, views and formats that packages add by entry points, used by name like the built-in ones."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
import torch

from fercore.config import RunConfig, build_config
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.hooks import hookimpl
from fercore.optimisers import OPTIMISERS
from fercore.plugin import Plugin, ViewRequest
from tests.loading import data_settings, load_domains

MODULE = """
import torch
from fercore.plugin import FileReader, Format, Rows, Scan


def signs(groups, spec, fused):
    return torch.optim.Rprop(groups, lr=spec.lr)


def half(spec, share):
    return 0.5


def black(images, uniforms, policy):
    return images * 0


MINE = Format("additions_of_tests", ("colour",), "one image of each class")


def scan(spec):
    rows = Rows()
    for label in range(2):
        rows.add(f"{spec.path}/{label}.png", label)
    return Scan(rows, FileReader(tuple(rows.keys)))
"""
GROUPS = {
    "fercore.optimisers": ("signs", "signs"),
    "fercore.schedules": ("half", "half"),
    "fercore.transforms": ("black", "black"),
    "fercore.formats": ("mine", "MINE"),
}


@pytest.fixture
def added(monkeypatch, tmp_path):
    (tmp_path / "additions_of_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    known = importlib.metadata.entry_points

    def points(group=None):
        if group not in GROUPS:
            return known() if group is None else known(group=group)
        name, thing = GROUPS[group]
        return [importlib.metadata.EntryPoint(name, f"additions_of_tests:{thing}", group)]

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    yield
    sys.modules.pop("additions_of_tests", None)


class Black(Plugin):
    """An add-on that asks for black images."""

    kind = "addon"

    @hookimpl
    def request_views(self):
        return [ViewRequest("target", "dark", "black")]

    @hookimpl
    def loss(self, batch):
        images = batch.target.images["dark"]
        assert torch.equal(images, images[:1, :, :1, :1].expand_as(images))
        return []


@pytest.mark.slow
def test_a_run_uses_what_packages_add(added, monkeypatch, make_context, tmp_path, listener):
    from fercore.hooks import assemble, discovery

    info = discovery.PluginInfo("black", "tests:Black", "tests", "1", "")
    load = discovery.load_class
    monkeypatch.setattr(assemble, "installed_plugins", lambda: {**discovery.installed_plugins(), "black": info})
    monkeypatch.setattr(assemble, "load_class", lambda found: Black if found is info else load(found))
    layer = {"optim": {"name": "signs", "schedule": "half", "lr": 0.001, "warmup_steps": 0}, "train": {"steps": 1}}
    watcher = listener()
    context = make_context("source_only", "black", layers=(layer,))
    run(context, tmp_path / "run", watcher)
    assert watcher.reports[0].lr[0] == pytest.approx(0.0005)


def test_a_format_is_read_by_its_package(added, tmp_path):
    from PIL import Image

    for label in range(2):
        Image.new("RGB", (32, 32), (9 * label, 0, 0)).save(tmp_path / f"{label}.png")
    text = f"mine:{tmp_path}?colour=red"
    settings = RunConfig.model_validate({"data": {"sources": [text], "target": f"mine:{tmp_path}?transductive=true"}})
    found = load_domains(settings.data, seed=0)
    assert len(found.sources[0]) == 2
    with pytest.raises(UserInputError, match="format mine has no option 'color'.*did you mean 'colour'"):
        data_settings(sources=[f"mine:{tmp_path}?color=red"])


def test_unknown_names_list_those_that_were_added(added):
    with pytest.raises(UserInputError, match="optim.name = 'sing'.*'adamw' or 'signs'"):
        build_config([{"optim": {"name": "sing"}}], [])
    assert list(OPTIMISERS) == ["sgd", "sgdw", "adam", "adamw", "signs"]


def test_names_are_known_without_an_import(added):
    assert build_config([{"optim": {"name": "signs"}}], []).optim.name == "signs"
    assert "additions_of_tests" not in sys.modules


def test_what_does_not_import_is_one_line(monkeypatch):
    broken = importlib.metadata.EntryPoint("lion", "no_such_module_of_tests:lion", "fercore.optimisers")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [broken])
    with pytest.raises(UserInputError, match="'lion' of fercore.optimisers does not import: ModuleNotFoundError"):
        OPTIMISERS["lion"]
