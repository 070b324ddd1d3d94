from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fercore.hooks.discovery import installed_plugins, load_class
from fercore.models import Model
from fercore.records.step import Batch, DomainBatch, Encoded, Progress
from fercore.records.task import BatchPolicy, DatasetInfo, TaskInfo

NAMES = sorted(name for name, info in installed_plugins().items() if info.distribution == "fercore-ssl")
CLASSES, WIDTH = 4, 3


@pytest.fixture(scope="session")
def paper():
    """The methods' equations in literal NumPy."""
    spec = importlib.util.spec_from_file_location("ssl_paper", Path(__file__).parent / "paper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def method():
    """Build a plugin with some settings."""

    def make(name, **settings):
        cls = load_class(installed_plugins()[name])
        return cls(name, cls.Settings.model_validate(settings))

    return make


def task(unlabelled=6, counts=(2, 1, 1, 0)):
    names = ("a", "b", "c", "d")
    source = DatasetInfo("folder", "folder", sum(counts), dict(zip(names, counts, strict=True)))
    policy = BatchPolicy(3, 6, None, class_balanced=False, domain_balanced=False)
    return TaskInfo(names, (source,), DatasetInfo("folder", "folder", unlabelled), None, None, False, policy)


class Step:
    """A step in float64: logits and features of every view, small images, and a model that holds a method's state."""

    def __init__(self, seed=0, labelled=3, unlabelled=6, scale=3.0, images=False):
        self.rng = np.random.default_rng(seed)
        sizes = {"source": labelled, "target": unlabelled}
        keys = [("source", "weak"), ("target", "weak"), ("target", "weak2"), ("target", "strong")]
        self.logits = {key: scale * self.rng.normal(size=(sizes[key[0]], CLASSES)) for key in keys}
        self.features = {key: self.rng.normal(size=(sizes[key[0]], WIDTH)) for key in keys}
        more, rng = [("source", "strong"), ("target", "strong2")], np.random.default_rng(seed + 1)
        self.logits |= {key: scale * rng.normal(size=(sizes[key[0]], CLASSES)) for key in more}
        self.features |= {key: rng.normal(size=(sizes[key[0]], WIDTH)) for key in more}
        self.labels = np.arange(labelled) % CLASSES
        self.index = np.arange(unlabelled)
        self.images = {key: self.rng.normal(size=(sizes[key[0]], 3, 4, 4)) for key in keys}
        self.images |= {key: rng.normal(size=(sizes[key[0]], 3, 4, 4)) for key in more}
        self.total = 10
        self.leaves = {}

    @staticmethod
    def value(terms, name):
        """Return a term's value."""
        return float(terms[name].value.detach())

    @staticmethod
    def near(expected):
        """Compare as float64 computations do."""
        return pytest.approx(expected, rel=1e-9, abs=1e-12)

    def views(self):
        """Return the logits of the labelled images and of the weak, second weak and strong view."""
        source, target = [("source", "weak")], [("target", name) for name in ("weak", "weak2", "strong")]
        return tuple(self.logits[key] for key in source + target)

    def encoded(self):
        self.leaves = {key: torch.tensor(z, requires_grad=True) for key, z in self.logits.items()}
        self.embedded = {key: torch.tensor(f, requires_grad=True) for key, f in self.features.items()}
        return {key: Encoded({"main": self.embedded[key]}, {"main": z}) for key, z in self.leaves.items()}

    def batch(self):
        sides = {}
        for side, labels in (("source", self.labels), ("target", np.full(len(self.index), -1))):
            n = len(labels)
            images = {view: torch.tensor(x) for (s, view), x in self.images.items() if s == side}
            zero = torch.zeros(n, dtype=torch.int64)
            index = torch.tensor(self.index) if side == "target" else torch.arange(n)
            sides[side] = DomainBatch(images, torch.tensor(labels), zero, index)
        return Batch(**sides)

    def clock(self, step=5, stage="train"):
        return Progress(stage, "main", 0, step, self.total)

    @staticmethod
    def model(plugin, n=6):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        heads = {"main": nn.Linear(WIDTH, CLASSES)}
        model = Model(net, {"main": nn.Identity()}, heads, (0.0,) * 3, (1.0,) * 3)
        state = plugin.state(CLASSES)
        if state is not None:
            model.parts[f"{plugin.name}/state"] = state
        for name, part in plugin.parts(WIDTH, task(n)).items():
            plugin.attach(model, part, name)
        model = model.double()
        if plugin.name == "flexmatch":
            state.put("learnt", torch.full((n,), -1))
        return model

    def run(self, plugin, model, clock=None):
        """Return (pseudo labels, terms by short name) of one step."""
        import inspect

        clock = clock or self.clock()
        given = {"model": model, "batch": self.batch(), "encoded": self.encoded(), "clock": clock}
        pseudo = None
        if hasattr(plugin, "pseudo_label"):
            wanted = inspect.signature(plugin.pseudo_label).parameters
            with torch.no_grad():
                pseudo = plugin.pseudo_label(**{k: v for k, v in given.items() if k in wanted})
        terms = plugin.loss(model, given["batch"], given["encoded"], pseudo, clock)
        return pseudo, {term.name.partition("/")[2]: term for term in terms}


@pytest.fixture
def step():
    return Step


@pytest.fixture(scope="session")
def names():
    return NAMES
