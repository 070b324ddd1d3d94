from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fercore_adafer.epoch import annotate, begin, fresh_epoch
from fercore_adafer.modules import Margin, State
from fercore_adafer.plugin import AdaFer
from fercore_adafer.settings import AdaFerSettings

from fercore.records.step import Batch, DomainBatch, Encoded, EncodedDataset, Progress
from fercore.records.task import BatchPolicy

CLASSES = 3
CLOCK = Progress("train", "main", 0, 0, 10)


class World:
    """Two domains of random action units, and the arrays of one step: features and logits, float64.

    Codes are drawn from few combinations, so that some match and some do not.
    """

    def __init__(self, sizes=(40, 30), units=4, combinations=9, seed=0, codes=None):
        rng = np.random.default_rng(seed)
        pool = rng.integers(0, 2, (combinations, units))
        self.codes = codes or {
            "source": pool[rng.integers(0, combinations - 2, sizes[0])],
            "target": pool[rng.integers(2, combinations, sizes[1])],
        }
        sizes = tuple(len(self.codes[side]) for side in ("source", "target"))
        # Scores on the right side of one half.
        self.scores = {
            side: np.where(codes == 1, rng.uniform(0.5, 1, codes.shape), rng.uniform(0, 0.499, codes.shape))
            for side, codes in self.codes.items()
        }
        self.labels = rng.integers(0, CLASSES, sizes[0])
        self.domain = np.sort(rng.integers(0, 2, sizes[0]))
        self.rng = rng

    def dataset(self, side):
        n = len(self.codes[side])
        extras = {
            "au": torch.tensor(self.scores[side], dtype=torch.float32),
            "au_code": torch.tensor(self.codes[side], dtype=torch.uint8),
        }
        labels = torch.tensor(self.labels) if side == "source" else torch.full((n,), -1)
        domain = torch.tensor(self.domain) if side == "source" else torch.zeros(n, dtype=torch.int64)
        logits = {"main": torch.tensor(np.random.default_rng(n).normal(size=(n, CLASSES)), dtype=torch.float32)}
        return EncodedDataset({}, logits, labels, domain, torch.arange(n), extras)


@pytest.fixture
def world():
    return World


@pytest.fixture
def method():
    """Build the plugin with some settings."""

    def make(**settings):
        return AdaFer("adafer", AdaFerSettings.model_validate(settings))

    return make


@pytest.fixture
def epoch(method):
    """Begin an epoch on a world: epoch(world, batch=(12, 12), **settings) -> (plugin, state, counts)."""

    def run(world, batch=(12, 12), steps=None, seed=0, by_class=False, by_domain=False, **settings):
        torch.manual_seed(seed)
        plugin = method(**settings)
        state = State(CLASSES).double()
        begin(state, world.dataset("source"), world.dataset("target"))
        state.sizes, policy = batch, BatchPolicy(*batch, steps, by_class, by_domain)
        counts = {**annotate(state, plugin.settings), **fresh_epoch(state, plugin.settings, policy)}
        return plugin, state, counts

    return run


class Step:
    """One step of an epoch: its batch, its features and logits as leaves, and the terms of the loss hooks."""

    def __init__(self, world, plugin, state, number=0, at=None):
        self.plugin, self.state = plugin, state
        sizes = dict(zip(("source", "target"), getattr(state, "sizes", (0, 0)), strict=True))
        orders = {"source": state.order_source, "target": state.order_target}
        self.at = at or {side: orders[side][number * n : (number + 1) * n] for side, n in sizes.items()}
        rng = np.random.default_rng(7)
        self.f = {side: rng.normal(size=(len(i), 5)) for side, i in self.at.items()}
        self.z = {side: rng.normal(size=(len(i), CLASSES)) for side, i in self.at.items()}
        self.leaves = {
            (kind, side): torch.tensor(arrays[side], requires_grad=True)
            for kind, arrays in (("f", self.f), ("z", self.z))
            for side in self.at
        }
        self.labels = world.labels[self.at["source"].numpy()]
        parts = {"adafer/state": state}
        if plugin.settings.gamma.mode == "learnable":
            parts["adafer/margin"] = Margin(plugin.settings.agt.gamma, plugin.settings.gamma.floor).double()
        self.model = SimpleNamespace(parts=parts)

    def side(self, side):
        at = self.at[side]
        labels = torch.tensor(self.labels) if side == "source" else torch.full((len(at),), -1)
        return DomainBatch({}, labels, torch.zeros(len(at), dtype=torch.int64), at)

    def terms(self, clock=CLOCK):
        batch = Batch(self.side("source"), self.side("target"))
        encoded = {
            (side, "weak"): Encoded({"main": self.leaves["f", side]}, {"main": self.leaves["z", side]})
            for side in self.at
        }
        with torch.no_grad():
            self.pseudo = self.plugin.pseudo_label(model=self.model, batch=batch, clock=clock)
        found = [*self.plugin.align(model=self.model, batch=batch, encoded=encoded, clock=clock)]
        found += self.plugin.loss(model=self.model, batch=batch, encoded=encoded, pseudo=self.pseudo, clock=clock)
        return {term.name.removeprefix("adafer/"): term for term in found}


@pytest.fixture
def step():
    return Step


@pytest.fixture
def clock():
    return CLOCK
