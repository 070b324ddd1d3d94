"""Every method, 50 steps in six kinds of stream, against its literal version in float64."""

from __future__ import annotations

import pytest
import torch

from fercore.models import Model
from tests.plugins.test_time import literal
from tests.plugins.test_time.conftest import REGIMES, answers, online, small_network, stream


def jittered(model: Model | None, images):
    """Stand in for the augmented views: random, cheap, in the images' own type."""
    return images * 0.9 + 0.1 * torch.rand_like(images)


VIEWS = {"views": 3}
CASES = {
    "adabn": ({}, literal.AdaBN),
    "adabn-nado": ({"alpha": 1.0, "momentum": 0.0}, lambda m: literal.AdaBN(m, alpha=1.0, momentum=0.0)),
    "adabn-average": ({"average": True}, lambda m: literal.AdaBN(m, average=True)),
    "tent": ({}, literal.Tent),
    "eata": ({}, literal.EATA),
    "sar": ({"frozen": []}, literal.SAR),
    "sar-resetting": ({"frozen": [], "reset_below": 2.2}, lambda m, mixed: literal.SAR(m, mixed, reset_below=2.2)),
    "cotta": (VIEWS, lambda m: literal.CoTTA(m, 3, lambda x: jittered(None, x))),
    "rotta": ({"memory": 16}, lambda m: literal.RoTTA(m, lambda x: jittered(None, x), 16)),
    "note": ({"memory": 16, "instance_aware": True}, lambda m: literal.NOTE(m, 16)),
    "note-plain": ({"memory": 16}, lambda m: literal.NOTE(m, 16, aware=False)),
    "delta": ({"start": "batch"}, literal.DELTA),
    "delta-select": ({"select": True}, lambda m: literal.DELTA(m, start="source", select=True)),
    "lame": ({}, literal.LAME),
    "lame-rbf": ({"affinity": "rbf"}, lambda m: literal.LAME(m, kind="rbf")),
    "t3a": ({"supports": 5}, lambda m: literal.T3A(m, 5)),
    "memo": (VIEWS, lambda m: literal.MEMO(m, 3, lambda x: jittered(None, x))),
    "memo-adamw": (
        {**VIEWS, "optimiser": "adamw", "lr": 1e-3, "weight_decay": 0.01},
        lambda m: literal.MEMO(m, 3, lambda x: jittered(None, x), 1e-3, "adamw", 0.01),
    ),
}
LAYERS = {"shuffled": (), "correlated": pytest.mark.slow, "batch_of_one": pytest.mark.slow}
"""One kind of stream shows a method, a second one and batches of one its statistics; soaks have all."""
TRIED = [
    pytest.param(case, regime, marks=LAYERS.get(regime, pytest.mark.soak))
    for case in CASES
    # A variant differs from its method in a line or two, which two kinds of stream show; cotta refuses batches of one.
    for regime in (REGIMES if "-" not in case else REGIMES[:2])
    if (case, regime) != ("cotta", "batch_of_one")
]
NEEDS_A_BATCH = {"tent", "eata", "sar", "sar-resetting"}


@pytest.fixture(autouse=True)
def _cheap_views(monkeypatch):
    for module in ("cotta", "rotta", "memo"):
        monkeypatch.setattr(f"fercore_test_time.{module}.face_views", jittered)


@pytest.mark.parametrize(("case", "regime"), TRIED)
def test_a_method_does_what_its_paper_writes(case, regime):
    settings, make = CASES[case]
    name, one = case.partition("-")[0], regime == "batch_of_one"
    mixed = case in NEEDS_A_BATCH and one
    batches, steps = stream(regime, 50, 2 if name == "memo" else 8), 50
    network = small_network()
    written = make(network, mixed) if case in NEEDS_A_BATCH else make(network)
    how = {**settings, **({"statistics": "mixed"} if mixed else {})}
    adapting = online(name, network, how, batch=len(batches[0]))
    torch.manual_seed(3)
    given = answers(adapting, batches)
    torch.manual_seed(3)
    for step in range(steps):
        torch.testing.assert_close(given[step], written.step(batches[step]), rtol=2e-6, atol=2e-8)
    if case == "sar-resetting" and regime == "shuffled":
        assert sum(adapting.resets.values()) == written.resets > 0
