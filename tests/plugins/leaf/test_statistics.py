"""Whose batch statistics are kept: both plugins follow one rule, and the official variant the released code."""

from __future__ import annotations

import pytest
import torch

from fercore.engine.run import run
from fercore.records.step import Progress

CLOCK = Progress("train", "main", 0, 0, 6)
TINY = {"n_experts": 2}


def leaves_a_trace(context, view, training=True):
    """Say whether encoding a view changes a buffer of the network."""
    context.model.train(training)
    before = {name: b.clone() for name, b in context.model.named_buffers()}
    found = context.plugins.encode(context.model, next(context.loader()).target, view, CLOCK, "target", "train")
    assert torch.isfinite(found.logits["main"]).all()
    return any(not torch.equal(before[name], b) for name, b in context.model.named_buffers())


@pytest.mark.parametrize(("names", "key"), [(["leaf"], "leaf"), (["source_only", "leaf_eaf"], "leaf_eaf")])
@pytest.mark.parametrize(
    ("settings", "traced"),
    [({}, False), ({"statistics": "all"}, True), ({"variant": "official"}, True)],
    ids=["weak", "all", "official"],
)
def test_strong_views_leave_no_trace(make_context, names, key, settings, traced):
    context = make_context(*names, layers=({key: {**TINY, **settings}},))
    assert leaves_a_trace(context, "strong") == traced
    assert leaves_a_trace(context, "weak")
    assert not leaves_a_trace(context, "strong", training=False)


def test_the_methods_rule_stands_where_its_consistency_does(make_context):
    layer = {"leaf_eaf": {**TINY, "consistency": "keep"}, "fixmatch": {"statistics": "all"}}
    assert leaves_a_trace(make_context("fixmatch", "leaf_eaf", layers=(layer,)), "strong")


def test_a_network_that_failed_has_its_statistics(make_context):
    context = make_context("source_only", "leaf_eaf", layers=({"leaf_eaf": TINY},))
    held = dict(context.model.named_buffers())
    with pytest.raises(KeyError):
        context.plugins.encode(
            context.model, next(context.loader()).source, "strong", CLOCK, "source", "train"
        )  # there is no such view
    assert all(held[name] is b for name, b in context.model.named_buffers())


@pytest.mark.slow
def test_a_run_keeps_the_statistics_of_weak_views_alone(make_context, tmp_path, listener):
    def counted(statistics):
        layer = {"leaf": {**TINY, "statistics": statistics}, "train": {"steps": 2, "ema": 0.5}}
        context = make_context("leaf", layers=(layer,))
        run(context, tmp_path / statistics, listener())
        return next(int(b) for name, b in context.model.named_buffers() if name.endswith("num_batches_tracked"))

    assert (counted("weak"), counted("all")) == (4, 6)  # a step has a labelled, a weak and a strong batch
