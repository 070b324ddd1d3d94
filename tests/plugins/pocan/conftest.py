from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from fercore_pocan.objectives import StepInputs
from fercore_pocan.plugin import Pocan
from fercore_pocan.settings import PocanSettings
from torch import nn

from fercore.records.step import PseudoLabels

SHORT = {
    "proj_dim": 8,
    "stages": {"unit": "share", "pretrain": 0.5, "prototypes": 0.34, "adapt": 1.0},
    "lr": {"adapt": 1e-3, "adapt_prototypes": 1e-2},
}


@pytest.fixture(scope="session")
def paper():
    """POCAN's equations in literal NumPy."""
    path = Path(__file__).parents[2] / "losses" / "pocan_paper.py"
    spec = importlib.util.spec_from_file_location("pocan_paper", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def method():
    """Build the plugin with some settings."""

    def make(**settings):
        return Pocan("pocan", PocanSettings.model_validate(settings))

    return make


@pytest.fixture
def context(make_context):
    """Build a short run on tiny synthetic faces; `layers` as of make_context."""

    def make(*layers, **settings):
        given = ({"pocan": settings},) if settings else ()  # an empty table would empty the one below it
        return make_context("pocan", layers=({"pocan": SHORT}, *given, *layers))

    return make


class Step:
    """A step's arrays, float64: embeddings of two views of both sides, prototypes, labels and pseudo labels."""

    def __init__(self, sizes=(4, 5), classes=3, width=3, trusted=(True, False, True, True, False), seed=0, bias=False):
        rng = np.random.default_rng(seed)

        def unit(a):
            return a / np.linalg.norm(a, axis=-1, keepdims=True)

        self.source, self.target = (unit(rng.normal(size=(n, 2, width))) for n in sizes)
        self.protos = {side: rng.normal(size=(classes, width)) for side in ("source", "target")}
        self.bias = {side: rng.normal(size=classes) if bias else None for side in ("source", "target")}
        self.labels = np.arange(sizes[0]) % classes
        self.guess = (np.arange(sizes[1]) * 2) % classes
        self.trusted = np.array(trusted)
        self.counts = np.array([4, 2, 1]), np.array([1, 0, 5])

    def scene(self, *, ramp=0.25, classifying=False, **settings):
        leaf = torch.tensor
        self.leaves = {
            "source": leaf(self.source, requires_grad=True),
            "target": leaf(self.target, requires_grad=True),
        }
        heads = {}
        for side, rows in self.protos.items():
            head = nn.Linear(rows.shape[1], rows.shape[0], bias=self.bias[side] is not None, dtype=torch.float64)
            head.weight.data = leaf(rows)
            if self.bias[side] is not None:
                head.bias.data = leaf(self.bias[side])
            heads[side] = head
            self.leaves[f"protos/{side}"] = head.weight
        probs = torch.nn.functional.one_hot(leaf(self.guess), len(self.protos["source"])).double()
        return StepInputs(
            name="pocan",
            settings=PocanSettings.model_validate(settings),
            source=self.leaves["source"],
            target=self.leaves["target"],
            labels=leaf(self.labels),
            pseudo=PseudoLabels(leaf(self.guess), leaf(self.trusted).double(), probs),
            heads=heads,
            counts=tuple(leaf(c) for c in self.counts),
            ramp=ramp,
            classifying=classifying,
        )


@pytest.fixture
def step():
    return Step
