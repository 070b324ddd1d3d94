"""What a run looks like: bars that keep their numbers at any width, a line a minute in logs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fercore import console, progress
from fercore.console import BarWatch, LineObserver, LineWatch, watch
from fercore.records.plan import StepReport

TERMS = {f"la_cmfer/{name}": 0.125 for name in ("cross_entropy", "sample_mmd", "cluster", "mpc", "voting")}


class Progress:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def report(total=0.625):
    return StepReport("train", "main", 0, 1, TERMS, total, [0.1], 8)


def screen(width, *, terminal):
    return Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system="standard", legacy_windows=False
    )


@pytest.mark.parametrize("width", [48, 60, 80, 100, 119, 120, 200])
@pytest.mark.parametrize("label", ["la_cmfer step", "more smooth + a long label of a row, seed 2 step"])
def test_a_bar_keeps_its_count_and_time_left_at_any_width(width, label):
    clock, out = Progress(), screen(width, terminal=True)
    bar = BarWatch(label, out, clock=clock)
    bar.begin(0, 20000)
    terms = " ".join(f"{name} {value}" for name, value in TERMS.items())
    for done in (100, 200, 300):
        clock.now += 100
        bar.advance(done, f"loss 0.625 {terms}")
    bar.refresh()
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue().rpartition("\x1b[2K")[2]).rstrip("\n")
    bar.end()
    assert "300/20000" in line
    assert "5:28:20" in line
    assert line.count("━") >= 5
    assert len(line) <= width
    assert label[:6] in line
    if width >= 80:
        assert "loss 0.6" in line


def test_a_log_has_a_line_a_minute_with_the_time_left():
    clock, out = Progress(), screen(132, terminal=False)
    lines = LineWatch("la_cmfer step", out, clock=clock)
    lines.begin(100, 700)
    for done in range(101, 701):
        clock.now += 0.5
        lines.advance(done, f"loss {done}")
    lines.end()
    assert out.file.getvalue().splitlines() == [
        "la_cmfer step 100 of 700",
        "la_cmfer step 220 of 700: 0:01:00 elapsed, 0:04:00 left, loss 220",
        "la_cmfer step 340 of 700: 0:02:00 elapsed, 0:03:00 left, loss 340",
        "la_cmfer step 460 of 700: 0:03:00 elapsed, 0:02:00 left, loss 460",
        "la_cmfer step 580 of 700: 0:04:00 elapsed, 0:01:00 left, loss 580",
        "la_cmfer step 700 of 700: 0:05:00 elapsed, 0:00:00 left, loss 700",
        "la_cmfer step 700 of 700: 0:05:00 elapsed, loss 700",
    ]


def test_a_bar_on_a_terminal_and_lines_elsewhere():
    assert type(watch("x", screen(80, terminal=True))) is BarWatch
    assert type(watch("x", screen(80, terminal=False))) is LineWatch


def test_an_observer_tells_loss_and_terms_and_where_it_stopped(monkeypatch):
    out = screen(132, terminal=False)
    for module in (console, progress):
        monkeypatch.setattr(module, "console", out)
    monkeypatch.setattr(progress, "EVERY", 0)
    observer = LineObserver("pocan [0]")
    observer.end()
    observer.begin(0, 4)
    observer.step(report(), 3)
    observer.end()
    first, told, last = out.file.getvalue().splitlines()
    assert first == "pocan [0] step 0 of 4"
    assert told.startswith("pocan [0] step 3 of 4: 0:00:00 elapsed, 0:00:00 left, loss 0.625 cross_entropy 0.125 ")
    assert last.startswith("pocan [0] step 3 of 4: 0:00:00 elapsed, loss 0.625 cross_entropy 0.125 sample_mmd 0.125")


def test_data_check_counts_each_dataset_by_itself(capsys):
    from fercore.cli.data import progress_bar

    with progress_bar("looking at images") as progress:
        for number in (1, 2, 1, 2):
            progress(number, 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "looking at images 0 of 2",
        "looking at images 2 of 2: 0:00:00 elapsed",
        "looking at images 0 of 2",
        "looking at images 2 of 2: 0:00:00 elapsed",
    ]
