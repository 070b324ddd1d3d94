"""Each run of an adaptation has its share of the time that is left, and ends in it."""

from __future__ import annotations

import pytest

from fercore.adaptation.deadline import Deadline, OutOfTime
from fercore.adaptation.plan import Timing
from fercore.adaptation.race import Race, Training, entry_of
from fercore.adaptation.state import State
from fercore.testing import Listener

TIMING = Timing(step=0.1, around=2, after=1, memory_mb=0)
"""Of 80 steps: 10 seconds."""


class Clock:
    """A budget whose time the test sets."""

    def __init__(self, left):
        self.left = left


class Recorder:
    """Runs nothing; notes what it is asked for, and lets time pass."""

    def __init__(self, budget, takes):
        self.budget, self.takes, self.calls = budget, takes, []

    def observing(self, observe):
        return observe

    def run(self, calls):
        for number, call in enumerate(calls):
            _, watch = call.make.args
            self.calls.append((call.label, None if watch is None else watch.args[1:]))
            self.budget.left -= self.takes
            yield number, f"result of {call.label}"


def race_of(tmp_path, left, takes, **given):
    budget = Clock(left)
    told = []
    recorder = Recorder(budget, takes)
    race = Race(
        tmp_path, [], "small", 0, False, budget, State(request={}), None, told.append, recorder, **given
    )  # fmt: skip
    return race, recorder, told


def training(name, **given):
    return Training(name, entry_of("mcc"), 80, timing=TIMING, **given)


def test_a_run_may_take_what_is_planned_for_it_of_what_is_left(tmp_path):
    race, recorder, _ = race_of(tmp_path, 60.0, 10.0)
    race.run_each([training("last/a"), training("last/b"), training("last/c")])
    # A third of 60 seconds, half of 50, all of 40, each less a second for scoring.
    assert recorder.calls == [("last/a", (19.0, 1)), ("last/b", (24.0, 1)), ("last/c", (39.0, 1))]
    assert race.results.keys() == {"last/a", "last/b", "last/c"}


def test_on_a_machine_that_became_slower_all_have_less(tmp_path):
    race, recorder, _ = race_of(tmp_path, 22.0, 6.5, reserve=2.0, ahead=10.0)
    race.run_each([training("first/a"), training("first/b")])
    assert [seconds for _, (seconds, _) in recorder.calls] == pytest.approx([20 / 3 - 1, 13.5 / 2 - 1])


def test_runs_beside_each_other_have_more(tmp_path):
    race, recorder, _ = race_of(tmp_path, 30.0, 0.0, jobs=2, ahead=10.0)
    race.run_each([training(f"first/{name}") for name in "abcd"])
    assert [seconds for _, (seconds, _) in recorder.calls] == pytest.approx([9.0, 30 / 2.5 - 1, 14.0, 14.0])


def test_a_run_for_which_little_time_is_left_is_not_begun(tmp_path):
    race, recorder, told = race_of(tmp_path, 7.0, 0.0, reserve=3.1)
    race.run_each([training("last/a")])
    assert recorder.calls == []
    assert race.state.dropped == {"last/a": "no time left for it: it takes 10 s"}
    assert told == ["last/a: dropped: no time left for it: it takes 10 s"]
    # One without which there is nothing to ship is trained to the least that makes a model.
    race.executor.budget.left = -5.0
    race.run_each([training("source_model", must=True, least=50)])
    assert recorder.calls == [("source_model", (-1.0, 50))]


def test_what_failed_is_dropped_and_the_rest_goes_on(tmp_path):
    race, recorder, _ = race_of(tmp_path, 60.0, 0.0)
    recorder.run = lambda calls: ((i, MemoryError("out of memory") if i == 0 else "done") for i, _ in enumerate(calls))
    race.run_each([training("last/a"), training("last/b")])
    assert race.state.dropped == {"last/a": "out of memory"}
    assert race.results == {"last/b": "done"}
    with pytest.raises(MemoryError):
        race.run_each([training("source_model", must=True, least=1)])


def test_a_run_ends_at_its_deadline(tmp_path):
    heard = Listener()
    over = Deadline(lambda label: heard, -1.0, 3, "a")
    assert not over.enough(2, usable=True)
    assert over.enough(3, usable=True)
    assert heard.messages == ["its time is over after 3 steps: it is taken as it stands"]
    with pytest.raises(OutOfTime, match="took longer than was left for it, after 4 steps"):
        over.enough(4, usable=False)
    assert not Deadline(lambda label: heard, 60.0, 1, "a").enough(3, usable=False)
