"""A step's alignment without data: tensors that hold none refuse whatever would wait for a GPU."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from fercore_la_cmfer.alignment import align_domains
from torch.utils._python_dispatch import TorchDispatchMode

from fercore.ops import dispatch
from fercore.records.step import DomainBatch, Encoded

SOURCES, ROWS, WIDTH, CLASSES = 5, 16, 32, 7
SETTINGS = [{}, {"variant": "official"}, {"cid": {"enabled": False}}, {"cid": {"weighted": True}}]


class Calls(TorchDispatchMode):
    """Counts the calls of fercore's ops."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fercore":
            self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def encoded(rows):
    features = {branch: torch.randn(rows, WIDTH, device="meta", requires_grad=True) for branch in ("global", "local")}
    logits = {branch: torch.randn(rows, CLASSES, device="meta", requires_grad=True) for branch in features}
    return Encoded(features, logits)


def side(rows, domains, **more):
    numbers = torch.arange(rows, device="meta")
    return DomainBatch({}, numbers % CLASSES, numbers % domains, numbers, **more)


@pytest.fixture
def without_data(monkeypatch):
    """Let the compiled ops take tensors without data, for which they have shapes."""
    assert dispatch.compiled("cpu")
    monkeypatch.setitem(dispatch._states, "meta", dispatch.State(tried=True, loaded=True))


@pytest.mark.parametrize("settings", SETTINGS, ids=["paper", "official", "sample_level", "weighted"])
def test_aligning_five_sources_takes_one_op_and_never_waits(without_data, method, settings):
    batch = side(SOURCES * ROWS, SOURCES, per_domain=(ROWS,) * SOURCES)
    with Calls() as calls:
        found = align_domains(encoded(len(batch)), encoded(ROWS), batch, method(**settings).settings)
        assert calls.counts == {"fercore::mmd": 1}
        (found.sample + found.cluster).backward()
    assert calls.counts == {"fercore::mmd": 1, "fercore::mmd_backward": 1}


def test_waiting_is_refused():
    with pytest.raises(NotImplementedError, match="Meta"):
        side(6, 3).domain_counts()
