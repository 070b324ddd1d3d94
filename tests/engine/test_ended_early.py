"""Whoever watches a run may end its training: the network is taken as it stands, and the record says so."""

from __future__ import annotations

import json

import pytest
import torch

from fercore.engine.run import run
from fercore.runs.folder import RunFolder
from fercore.testing import Listener


class Ender(Listener):
    """Wants training to end at some step; remembers what it was asked."""

    def __init__(self, at):
        super().__init__()
        self.at, self.asked = at, []

    def enough(self, done, *, usable):
        self.asked.append((done, usable))
        return done >= self.at


LAYER = {"train": {"steps": 8, "eval_every": 0}}


def test_a_run_ends_when_its_watcher_has_enough(make_context, tmp_path, weights_of):
    ender = Ender(3)
    result = run(make_context("source_only", layers=(LAYER,)), tmp_path / "run", ender)
    assert ender.asked == [(1, True), (2, True), (3, True)]
    assert (result.steps, result.planned_steps) == (3, 8)
    recorded = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (recorded["steps"], recorded["planned_steps"]) == (3, 8)
    assert RunFolder(tmp_path / "run").result() == result
    assert [done for done, _ in ender.scores] == [3]
    # They are the weights that a run of the whole length has by then.
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only", layers=(LAYER,)), tmp_path / "cut", Listener(stop_after=4))
    ended, killed = weights_of(tmp_path / "run"), weights_of(tmp_path / "cut")
    assert ended["step"] == killed["step"] == 3
    assert all(torch.equal(ended["model"][name], values) for name, values in killed["model"].items())


def test_a_run_that_has_all_its_steps_says_nothing_of_a_plan(make_context, tmp_path):
    ender = Ender(8)
    result = run(make_context("source_only", layers=(LAYER,)), tmp_path / "run", ender)
    assert [done for done, _ in ender.asked] == list(range(1, 8))
    assert (result.steps, result.planned_steps) == (8, None)
    assert "planned_steps" not in (tmp_path / "run" / "result.json").read_text()


def test_a_stream_goes_to_its_end(make_context, tmp_path):
    source = tmp_path / "source"
    run(make_context("source_only", layers=(LAYER,)), source, Listener())
    ender = Ender(1)
    context = make_context("no_adaptation", layers=(LAYER, {"model": {"init": str(source)}}))
    result = run(context, tmp_path / "run", ender)
    assert not any(usable for _, usable in ender.asked)
    assert result.planned_steps is None


@pytest.mark.slow
def test_a_run_is_not_ended_before_its_last_stage(tmp_path, make_context):
    ender, context = Ender(1), make_context("pocan", layers=({"train": {"eval_every": 0}},))
    before = sum(stage.steps for stage in context.stages[:-1])
    assert before
    result = run(context, tmp_path / "run", ender)
    assert result.steps == before + 1
    assert [usable for _, usable in ender.asked] == [False] * before + [True]
    assert 0 <= result.target.accuracy <= 1
