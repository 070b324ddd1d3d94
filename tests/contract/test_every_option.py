"""Every method in company of the engine's options, a few steps each: what a method's own tests take one by one."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from fercore.engine.initial import with_initial
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.testing import TINY
from fercore.testing.tiny import tiny_model

CLASSES = {name: load_class(info) for name, info in installed_plugins().items()}
TAUGHT = [name for name, plugin in CLASSES.items() if plugin.kind == "method" and plugin.needs_source]
METHODS = [name for name in TAUGHT if installed_plugins()[name].distribution != "fercore-pca"]
"""Those that learn from a source, on the backbone that `model.backbone` names."""
SHOWN = "anger,happiness,neutral,surprise"
ALL = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
TARGET = f"synthfer:wild?n=112&seed=2&classes={SHOWN}&shots=1"
LAYER = {
    "data": {
        "sources": ["synthfer:studio?n=84", "synthfer:web?n=84&seed=1", TARGET],
        "target": TARGET,
        "classes": ALL,
        "class_balanced": True,
    },
    "train": {"steps": 4, "steps_per_epoch": 2, "precision": "bf16-mixed"},
}
"""A target that lacks three of seven classes and has one label of each other; even classes, half precision."""


def context_of(name, **own):
    settings = {"sources": "apart"} if "sources" in CLASSES[name].Settings.model_fields else {}
    layers = [
        TINY,
        LAYER,
        {"model": {"init": str(tiny_model())}},
        {name: {**settings, **own}} if settings or own else {},
    ]
    return build_context(assemble([name], with_initial(layers), preset="demo"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_with_every_option(name, tmp_path, listener):
    context, heard = context_of(name), listener()
    given = load_file(tiny_model() / "model.safetensors")
    mine = {key: value for key, value in context.model.state_dict().items() if key.startswith("backbone.")}
    assert sum(key in given and torch.equal(given[key], value) for key, value in mine.items()) > 20
    result = run(context, tmp_path / "run", heard)
    assert {len(report.terms) > 0 for report in heard.reports} == {True}
    assert all(math.isfinite(value) for report in heard.reports for value in report.terms.values())
    assert tuple(result.target.classes) == tuple(ALL)
    assert result.target.labelled.n == 4
    assert 0 <= result.target.accuracy <= 1
