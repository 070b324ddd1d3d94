from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fercore_la_cmfer.modules import RunState
from fercore_la_cmfer.plugin import LaCmfer, resolve_alpha
from fercore_la_cmfer.settings import LaCmferSettings

from fercore.config import RunConfig
from fercore.data.domains.dataset_info import dataset_info, task_info
from fercore.data.labels import CANONICAL as CLASSES
from fercore.data.spec import parse_spec
from fercore.records.step import Batch, DomainBatch, Encoded, Progress

TINY = {"network": {"widths": [8, 8], "depths": [1, 1], "local_width": 2, "local_depth": 1, "cbam_reduction": 4}}
CLOCK = Progress("train", "main", 0, 5, 10)


@pytest.fixture(scope="session")
def paper():
    """LA-CMFER's equations in literal NumPy."""
    path = Path(__file__).parents[2] / "losses" / "paper.py"
    spec = importlib.util.spec_from_file_location("la_cmfer_paper", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class StepInputs:
    """A step's arrays: features and logits of both branches on both sides, float64, of chosen sizes.

    `arrays` maps (side, branch, "f" or "z") to an array; torch leaves of the same keys are in `leaves`.
    """

    def __init__(self, domain=(0, 0, 0, 0, 1, 1, 1, 1), target=5, classes=3, seed=0, widths=(2, 3), scale=1.5):
        rng = np.random.default_rng(seed)
        self.domain, self.classes = np.array(domain), classes
        self.labels = rng.integers(0, classes, len(domain))
        self.arrays = {}
        for side, n in (("source", len(domain)), ("target", target)):
            for branch, width in zip(("global", "local"), widths, strict=True):
                self.arrays[side, branch, "f"] = rng.normal(size=(n, width)) + (side == "target") * 0.4
                self.arrays[side, branch, "z"] = rng.normal(size=(n, classes)) * scale
        self.arrays["target", "local", "z"][:2] = self.arrays["target", "global", "z"][:2] * 2
        self.leaves = {key: torch.tensor(a, requires_grad=True) for key, a in self.arrays.items()}

    def encoded(self):
        sides = ("source", "target")
        return {
            (side, "weak"): Encoded(
                *({b: self.leaves[side, b, part] for b in ("global", "local")} for part in ("f", "z"))
            )
            for side in sides
        }

    def batch(self):
        def side(labels, domain):
            n = len(labels)
            return DomainBatch({}, torch.tensor(labels), torch.tensor(domain), torch.arange(n))

        n = len(self.arrays["target", "global", "f"])
        return Batch(side(self.labels, self.domain), side([-1] * n, [0] * n))


@pytest.fixture
def inputs():
    return StepInputs


@pytest.fixture
def method():
    """Build the plugin with some settings."""

    def make(**settings):
        return LaCmfer("la_cmfer", LaCmferSettings.model_validate(settings))

    return make


@pytest.fixture
def step(method):
    """Run the loss hooks on a inputs; returns the terms by name."""

    def run(inputs, target="jaffe:x", **settings):
        plugin = method(**settings)
        state = RunState(resolve_alpha(plugin.settings, dataset_info(parse_spec(target), 9))[0])
        model = SimpleNamespace(parts={"la_cmfer/state": state})
        encoded, batch = inputs.encoded(), inputs.batch()
        with torch.no_grad():
            pseudo = plugin.pseudo_label(encoded=encoded)
        terms = [*plugin.align(model=model, batch=batch, encoded=encoded, clock=CLOCK)]
        terms += plugin.loss(model=model, batch=batch, encoded=encoded, pseudo=pseudo)
        run.counts = state.take()
        return {term.name.removeprefix("la_cmfer/"): term for term in terms}

    return run


@pytest.fixture
def build(method):
    """Build a tiny network with some settings; `config` holds layers over RunConfig."""

    def make(config=None, num_classes=7, **settings):
        plugin = method(**{**TINY, **settings})
        small = {
            "data": {"size": 32, "sources": ["folder:a", "folder:b"], "target": "folder:t"},
            "model": {"backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}},
        }
        layered = {key: {**small.get(key, {}), **(config or {}).get(key, {})} for key in {*small, *(config or {})}}
        config = RunConfig.model_validate(layered)
        sizes = [9] * len(config.data.sources), 9
        return plugin, plugin.build_model(config, num_classes, task_info(config, CLASSES[:num_classes], sizes))

    return make


@pytest.fixture
def clock():
    return CLOCK
