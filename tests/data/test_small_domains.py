"""A domain smaller than its share of a batch: refused, or repeated inside each batch."""

from __future__ import annotations

import numpy as np
import pytest

from fercore.data import StepLoader
from fercore.data.batches.sampling import ClassOrder, PoolOrder
from fercore.errors import UserInputError
from fercore.records.plan import ViewRequest

VIEWS = [ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak")]
GREY = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def test_a_small_domain_is_refused_or_repeated(loaded):
    domains, settings = loaded(target_batch=40)
    with pytest.raises(UserInputError, match=r"batch larger than a domain: 40.*data.small_domains=repeat"):
        StepLoader(domains, VIEWS, settings, seed=0, **GREY)
    domains, settings = loaded(target_batch=40, small_domains="repeat")
    loader = StepLoader(domains, VIEWS, settings, seed=0, **GREY)
    counts = np.bincount(next(loader).target.index.numpy(), minlength=len(domains.adaptation))
    assert counts.sum() == 40
    assert set(counts.tolist()) <= {40 // len(counts), 40 // len(counts) + 1}


def test_every_pass_has_each_sample_once_and_differs():
    order = PoolOrder(np.arange(10, 17), 20, (0, "target"))
    assert order.steps == 1
    first, second = order.take(0), order.take(1)
    assert sorted(first[:7]) == sorted(first[7:14]) == list(range(10, 17))
    assert first[:7].tolist() != first[7:14].tolist()
    assert first.tolist() != second.tolist()
    assert PoolOrder(np.arange(10, 17), 20, (0, "target")).take(0).tolist() == first.tolist()


def test_classes_repeat_too():
    order = ClassOrder(np.arange(4), np.array([0, 1, 1, 1]), 10, (0, "source"))
    assert order.steps == 1
    assert np.bincount(order.take(0), minlength=4)[0] == 5
