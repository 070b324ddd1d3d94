from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from fercore_pca.method import ClipMethod
from fercore_pca.network import Network, build_network
from fercore_pca.settings import PcaSettings

from fercore.engine.setup import build_context
from fercore.hooks.assemble import assemble
from fercore.models.clip import ClipSettings, load_clip
from fercore.records.step import DomainBatch

CLASSES = ("anger", "happiness", "sadness")
DATA = {
    "sources": ["synthfer:studio?n=56"],
    "target": "synthfer:wild?n=112&seed=2&shots=1",
    "size": 64,
    "source_batch": 14,
    "target_batch": 14,
    "eval_batch": 56,
}
SHORT = {"data": DATA, "train": {"steps": 4, "steps_per_epoch": 2, "checkpoint_every": 1}}


@pytest.fixture(scope="session")
def paper():
    """PCA's equations in literal loops."""
    spec = importlib.util.spec_from_file_location("pca_paper", Path(__file__).with_name("paper.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["pca_paper"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clip():
    """A small CLIP with weights by a seed."""

    def make(model="tiny"):
        return load_clip(ClipSettings(model=model), seed=0)

    return make


@pytest.fixture
def network(clip):
    """Build model and network for some settings; target labels are domain 1 of the source."""

    def make(model="tiny", classes=CLASSES, labelled=1, name="pca_ifer", **settings):
        torch.manual_seed(0)
        pca_settings = PcaSettings.model_validate({"clip": {"model": model}, "aug": {"kind": "weak"}, **settings})
        built = build_network(name, pca_settings, clip(model), classes, labelled)
        return Network(name, pca_settings, built)

    return make


@pytest.fixture
def method():
    """Build the plugin with some settings."""

    def make(**settings):
        return ClipMethod("pca_ifer", PcaSettings.model_validate(settings))

    return make


def batch_of(images, *, labels=None, domain=None, view="train", index=None):
    n = len(images)
    zeros = torch.zeros(n, dtype=torch.int64)
    return DomainBatch(
        {view: images},
        zeros if labels is None else labels,
        zeros if domain is None else domain,
        torch.arange(n) if index is None else index,
    )


@pytest.fixture(name="batch_of")
def _batch_of():
    return batch_of


@pytest.fixture
def context(tiny):
    """Build a short run on tiny synthetic faces with few target labels; `layers` are settings of the run."""

    def make(name="pca_ifer", *layers, **settings):
        own = {"clip": {"model": "tiny"}, **settings}
        return build_context(assemble([name], [tiny, SHORT, {name: own}, *layers]))

    return make
