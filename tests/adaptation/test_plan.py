"""Time to steps, and which rows of the portfolio suit a task."""

from __future__ import annotations

import json

import pytest

from fercore.adaptation.budget import SPENT, Budget, seconds_of, time_text
from fercore.adaptation.plan import FINALISTS, LEAST_STEPS, MOST_STEPS, Timing, lay_out
from fercore.adaptation.portfolio import FEATURES, fitting, portfolio, read_rows
from fercore.errors import UserInputError

QUICK, SLOW = Timing(step=0.1, around=2, memory_mb=500), Timing(step=1.0, around=2, memory_mb=900)
TIMING = {"no_adaptation": Timing(step=0, around=3, memory_mb=400), "source_only": QUICK, "a": QUICK, "b": SLOW}


def laid_out(rows, total, *, timing=TIMING, source=True, spent=0.0):
    return lay_out(
        rows, {}, timing, first="no_adaptation", reference="source_only" if source else "", trains_source=source,
        total=total, spent=spent,
    )  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("90s", 90), ("1.5h", 5400), (" 2 M ", 120)])
def test_a_time_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0s", "1e9h", "30 minutes"])
def test_no_time_is_refused(text):
    with pytest.raises(UserInputError, match="cannot read a time"):
        seconds_of(text)


def test_what_a_killed_process_spent_counts(tmp_path):
    (tmp_path / SPENT).write_text('{"seconds": 100.0}')
    with Budget(130, tmp_path) as budget:
        assert 29 < budget.left <= 30
    assert 100 <= json.loads((tmp_path / SPENT).read_text())["seconds"] < 101
    (tmp_path / SPENT).write_text('{"seconds": -1}')
    with pytest.raises(UserInputError, match="is damaged"):
        Budget(130, tmp_path)


def test_the_plan_fits_the_time_and_drops_the_last_rows_first():
    plan = laid_out(["a", "b"], 600)
    assert plan.rows == ["a", "b"]
    assert plan.seconds + plan.reserve <= 600
    steps = plan.rounds[-1]
    # One step more would not have fitted, unless more are not worth it.
    assert steps == MOST_STEPS or plan.seconds + plan.reserve + 2 * 0.1 + 1.0 > 600 - 0.1
    short = laid_out(["a", "b"], 80)
    assert short.rows == ["a"]
    assert short.left == {"b": "no time for it"}
    assert short.seconds + short.reserve <= 80
    assert short.rounds[-1] >= LEAST_STEPS


def test_many_rows_are_halved_in_a_short_round_first():
    timing = {**TIMING, **{f"m{i}": QUICK for i in range(8)}}
    plan = laid_out([f"m{i}" for i in range(8)], 1800, timing=timing)
    assert len(plan.rounds) == 2
    assert plan.rounds[0] * 4 == plan.rounds[1]
    assert plan.finalists == FINALISTS
    assert any("first round" in line for line in plan.lines("source_only"))


def test_no_time_for_the_reference_says_how_much_is_needed():
    with pytest.raises(UserInputError, match=r"no time for even the reference.*--budget 2m or more"):
        laid_out(["a"], 30)
    enough = laid_out(["a"], 60)
    assert enough.source_steps
    assert enough.rounds[-1] >= LEAST_STEPS


def test_without_a_source_nothing_is_trained_before_the_methods():
    plan = laid_out(["a"], 120, source=False)
    assert plan.source_steps == 0
    assert plan.rows == ["a"]
    # Nothing must be trained: a model is there to ship, whatever the time.
    assert laid_out(["b"], 30, source=False).rows == []


def test_the_portfolio_is_data_that_names_known_features():
    rows = portfolio()
    assert len(rows) > 8
    assert all(row.needs | row.unless <= set(FEATURES) for row in rows)
    taken, left = fitting(rows, {"source"})
    assert "la_cmfer" in {row.label for row in taken}
    assert left["aad"] == "needs a model alone"
    assert "shot, estimated shares" in {row.label for row in taken}  # shares are known once there is a model
    tiny, why = fitting(rows, {"source", "tiny_target"})
    assert "la_cmfer" not in {row.label for row in tiny}
    assert why["la_cmfer"] == "not for a target this small"
    assert [row.label for row in fitting(rows, {"source"}, ["mcc"])[0]] == ["mcc"]
    with pytest.raises(UserInputError, match="mcc"):
        fitting(rows, {"source"}, ["mccc"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no text|is not a text"),
        ("[[row]", "not valid TOML"),
        ('[[row]]\nlabel = "a"', "method"),
        ('[[row]]\nlabel = "a"\nmethod = "mcc"\nneeds = ["sun"]', "source"),
        ('[[row]]\nlabel = "a"\nmethod = "mcc"\nwhen = 3', "when"),
    ],
)
def test_rows_that_are_wrong_are_refused(text, said):
    with pytest.raises(UserInputError, match=said):
        read_rows(text, "package")


def test_a_package_adds_rows(monkeypatch):
    from fercore.adaptation import portfolio as module

    class Point:
        name = value = "mine"

        def load(self):
            return '[[row]]\nlabel = "mine"\nmethod = "mcc"\nneeds = ["source"]\nwhy = "a test"\n'

    monkeypatch.setattr(module, "entry_points", lambda group: [Point()] if group == module.GROUP else [])
    assert portfolio()[-1].label == "mine"
    monkeypatch.setattr(module, "entry_points", lambda group: [Point(), Point()])
    with pytest.raises(UserInputError, match="two rows of the portfolio are called 'mine'"):
        portfolio()


def test_times_are_words():
    assert [time_text(s) for s in (40, 600, 7200)] == ["40 s", "10 min", "2.0 h"]


def test_a_target_of_which_nothing_could_be_told_is_not_adapted_to():
    from fercore.adaptation.look import Data
    from fercore.adaptation.probe import _nothing_to_tell
    from fercore.data.spec import parse_spec

    def reason(copies, n):
        return _nothing_to_tell(Data((), parse_spec("synthfer:wild?n=80"), copies, ()), n)

    assert reason(0, 40) == reason(20, 40) == ""
    assert "too small" in reason(3, 19)
    assert "stands in a source" in reason(21, 40)
