"""Every method in company of the engine's options, a few steps each: what a method's own tests take one by one."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from fercore.engine.initial import with_initial
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.testing import TINY
from fercore.testing.tiny import tiny_model
from tests.contract.chosen import CHOSEN

CLASSES = {name: load_class(info) for name, info in installed_plugins().items()}
TAUGHT = [name for name, plugin in CLASSES.items() if plugin.kind == "method" and plugin.needs_source]
METHODS = [name for name in TAUGHT if installed_plugins()[name].distribution != "fercore-pca"]
"""Those that learn from a source, on the backbone that `model.backbone` names."""
ALL = ["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]
PARTIAL = "synthfer:wild?n=112&seed=2&classes=anger,happiness,neutral,surprise"
FEW = "synthfer:wild?n=112&seed=2&shots=1"
SOURCES = ["synthfer:studio?n=84", "synthfer:web?n=84&seed=1"]
SMALL = "few labels, two images of each domain"
DATA = {
    "a target that lacks classes, sources pooled": {"sources": SOURCES, "target": PARTIAL, "classes": ALL},
    "few labels of the target, sources apart": {"sources": [*SOURCES, FEW], "target": FEW},
    SMALL: {
        "sources": [*SOURCES, FEW],
        "target": FEW,
        "source_batch": 6,
        "target_batch": 2,
    },
}
SHORT = {"data": {"class_balanced": True}, "train": {"steps": 3, "steps_per_epoch": 2, "precision": "bf16-mixed"}}


def context_of(name, data):
    apart = len(data["sources"]) > 2 and "sources" in CLASSES[name].Settings.model_fields
    own = {name: {"sources": "apart" if apart else "pooled"}} if apart else {}
    layers = [TINY, SHORT, {"data": data, "model": {"init": str(tiny_model())}}, own]
    return build_context(assemble([name], with_initial(layers), preset="demo"))


TRIED = [
    pytest.param(name, data, marks=pytest.mark.soak if number and name not in CHOSEN else ())
    for name in METHODS
    for number, data in enumerate(DATA)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data"), TRIED)
def test_a_method_runs_from_a_source_model_with_even_classes_in_half_precision(name, data, tmp_path, listener):
    if name == "adafer" and data == SMALL:
        with pytest.raises(UserInputError, match="hold no triplet"):
            context_of(name, DATA[data])
        return
    context, heard = context_of(name, DATA[data]), listener()
    learnt = [value for key, value in load_file(tiny_model() / "model.safetensors").items() if "backbone." in key]
    # Under other names where a method cuts its backbone to a map; pocan's holds its projection too.
    mine = [value for key, value in context.model.state_dict().items() if key.startswith("backbone.")]
    assert sum(any(torch.equal(value, one) for one in learnt) for value in mine) > 60
    result = run(context, tmp_path / "run", heard)
    assert all(report.terms and math.isfinite(report.total) for report in heard.reports)
    assert {*result.target.classes} == {*ALL}
    assert result.target.labelled.n == (7 if "few" in data else 0)
    assert result.target.n > 0
