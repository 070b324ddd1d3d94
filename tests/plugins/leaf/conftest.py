from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fercore_leaf.plugin import Leaf
from fercore_leaf.settings import LeafSettings
from fercore_leaf.state import RunState
from torch import nn

from fercore.config import RunConfig
from fercore.records.step import Batch, DomainBatch, Encoded

SMALL = {"n_experts": 3}
VIEWS = {
    "labelled": ("source", "weak"),
    "weak": ("target", "weak"),
    "weak2": ("target", "weak2"),
    "strong": ("target", "strong"),
}


@pytest.fixture(scope="session")
def paper():
    """LEAF's equations in literal NumPy."""
    spec = importlib.util.spec_from_file_location("leaf_paper", Path(__file__).parent / "paper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def method():
    """Build the plugin with some settings."""

    def make(**settings):
        return Leaf("leaf", LeafSettings.model_validate(settings))

    return make


class Scene:
    """A step's arrays, float64: features and logits of every view; torch leaves of the same keys are in `leaves`."""

    def __init__(self, labelled=4, unlabelled=6, classes=5, seed=0, scale=2.0, width=3):
        rng = np.random.default_rng(seed)
        self.labels, self.classes = rng.integers(0, classes, labelled), classes
        self.arrays = {}
        common = rng.normal(size=(unlabelled, classes)) * scale
        for view in VIEWS:
            n = labelled if view == "labelled" else unlabelled
            self.arrays[view, "f"] = rng.normal(size=(n, width))
            own = rng.normal(size=(n, classes))
            self.arrays[view, "z"] = own * scale if view == "labelled" else common + own
        self.wake()

    def wake(self):
        self.leaves = {key: torch.tensor(a, requires_grad=True) for key, a in self.arrays.items()}
        return self

    def encoded(self, views):
        return {
            place: Encoded({"main": self.leaves[name, "f"]}, {"main": self.leaves[name, "z"]})
            for name, place in VIEWS.items()
            if place in views
        }

    def batch(self):
        def side(labels):
            n = len(labels)
            return DomainBatch({}, torch.tensor(labels), torch.zeros(n, dtype=torch.int64), torch.arange(n))

        return Batch(side(self.labels), side(np.full(len(self.arrays["weak", "z"]), -1)))


@pytest.fixture
def scene():
    return Scene


@pytest.fixture
def step(method):
    """Run the loss hooks on a scene; returns the terms by name, and keeps pseudo labels and state."""

    def run(scene, thresholds=None, **settings):
        plugin = method(**settings)
        state = RunState(scene.classes, plugin.settings.thresholds.floor)
        if thresholds is not None:
            state.thresholds.copy_(torch.tensor(thresholds))
        model = SimpleNamespace(parts={"leaf/state": state}, branches=nn.ModuleDict(), heads=nn.ModuleDict())
        views = [(request.side, request.name) for request in plugin.request_views()]
        encoded, batch = scene.encoded(views), scene.batch()
        with torch.no_grad():
            pseudo = plugin.pseudo_label(model=model, encoded=encoded)
        terms = [*plugin.align(encoded=encoded, pseudo=pseudo)]
        terms += plugin.loss(model=model, batch=batch, encoded=encoded, pseudo=pseudo)
        run.pseudo, run.state = pseudo, state
        return {term.name.removeprefix("leaf/"): term for term in terms}

    return run


@pytest.fixture
def total(step):
    """Return the weighted sum of a scene's terms."""

    def run(scene, **settings):
        return sum(term.weight * term.value for term in step(scene, **settings).values())

    return run


@pytest.fixture
def build(method):
    """Build a tiny network with some settings."""

    def make(num_classes=7, dropout=0.0, **settings):
        plugin = method(**{**SMALL, **settings})
        config = {"model": {"backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}, "dropout": dropout}}
        return plugin, plugin.build_model(RunConfig.model_validate(config), num_classes)

    return make
