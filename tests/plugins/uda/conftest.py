from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fercore.hooks.discovery import installed_plugins, load_class
from fercore.models import ClassShares, Model
from fercore.models.class_shares import PART
from fercore.records.step import Batch, DomainBatch, Progress
from fercore.records.task import BatchPolicy, DatasetInfo, TaskInfo

CLASSES, WIDTH, NAMES = 4, 5, ("a", "b", "c", "d")
RATIO = (0.5, 2.0, 1.5, 1.0)


@pytest.fixture(scope="session")
def literal():
    """The methods' equations, literally."""
    spec = importlib.util.spec_from_file_location("uda_literal", Path(__file__).parent / "literal.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def task(counts=(5, 5, 5, 5)):
    source = DatasetInfo("folder", "folder", sum(counts), dict(zip(NAMES, counts, strict=True)))
    policy = BatchPolicy(8, 8, None, class_balanced=False, domain_balanced=False)
    return TaskInfo(NAMES, (source,), DatasetInfo("folder", "folder", 20), None, None, False, policy)


class Step:
    """A step in float64 whose images are the features: a plugin, its network without a backbone, and both sides."""

    def __init__(self, name, settings=None, source=6, target=7, seed=0, domains=1, phase="main"):
        cls = load_class(installed_plugins()[name])
        self.plugin = cls(name, cls.Settings.model_validate(settings or {}))
        torch.manual_seed(seed)
        self.model = self._network().double()
        self.x = (2 * torch.randn(source, WIDTH, dtype=torch.float64)).requires_grad_()
        self.y = (2 * torch.randn(target, WIDTH, dtype=torch.float64) + 1).requires_grad_()
        self.labels = torch.arange(source) % CLASSES
        self.domain = torch.arange(source) % domains
        self.clock = Progress("train", phase, 0, 300, 1000)

    def _network(self):
        plugin = self.plugin
        head = plugin.head(WIDTH, CLASSES, 0.0) if plugin.kind == "method" else nn.Linear(WIDTH, CLASSES)
        model = Model(nn.Identity(), {"main": nn.Identity()}, {"main": head}, (0.0,) * 3, (1.0,) * 3)
        for part, module in (plugin.parts(WIDTH, task()) if plugin.kind == "method" else {}).items():
            plugin.attach(model, module, part)
        if (prior := f"{plugin.name}/prior") in model.parts:
            model.parts[prior].target.copy_(torch.tensor(RATIO) / 4)
        return model

    def weigh(self, shares):
        """Let the target's classes have these shares."""
        state = ClassShares(task())
        state.target.copy_(torch.tensor(shares) / sum(shares))
        self.model.parts[PART] = state

    def terms(self, target_view="weak"):
        """Return the terms of the step by short name."""
        sides = {"source": (self.x, self.labels, self.domain), "target": (self.y, torch.full((len(self.y),), -1), None)}
        encoded, batches = {}, {}
        for side, (rows, labels, domain) in sides.items():
            view = target_view if side == "target" else "weak"
            none = torch.zeros(len(rows), dtype=torch.int64)
            encoded[side, view] = self.model(rows)
            index = torch.arange(len(rows))
            if side == "target":
                encoded[side, "strong"] = encoded[side, view]
            batches[side] = DomainBatch({view: rows}, labels, none if domain is None else domain, index)
        given = {
            "model": self.model,
            "batch": Batch(**batches),
            "encoded": encoded,
            "clock": self.clock,
            "pseudo": None,
        }

        def call(hook):
            method = getattr(self.plugin, hook, None)
            wanted = inspect.signature(method).parameters if method else ()
            return method(**{k: v for k, v in given.items() if k in wanted}) if method else []

        with torch.no_grad():
            given["pseudo"] = call("pseudo_label") or None
        return {term.name.partition("/")[2]: term for hook in ("align", "loss") for term in call(hook)}

    def data(self):
        """Return what the literal equations read; the same leaves."""
        head = self.model.heads["main"]
        parts = {name.partition("/")[2]: part for name, part in self.model.parts.items()}
        return SimpleNamespace(
            x=self.x, y=self.y, zx=head(self.x), zy=head(self.y), labels=self.labels.tolist(), head=head,
            classes=CLASSES, adversary=parts.get("adversary"), second=parts.get("second"), ratio=RATIO,
            share=self.clock.progress,
            step=self.clock.step,
        )  # fmt: skip

    def groups(self):
        """Return the leaves by group."""
        parts = [p for name, p in self.model.named_parameters() if name.startswith("parts.")]
        return {"features": [self.x, self.y], "head": [*self.model.heads.parameters()], "parts": parts}


@pytest.fixture
def step():
    return Step


@pytest.fixture(name="task")
def _task():
    return task
