"""What a run looks like in a terminal: progress with time left and loss terms, tables of results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from fercore.engine.observer import Observer
from fercore.result import Result
from fercore.schedule import StepReport
from fercore.terminal import printable

console = Console(width=None if sys.stdout.isatty() else 132, markup=False, emoji=False, highlight=False)
"""What is printed are names, paths and settings of others: brackets and colons are no markup."""

HEADS = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro F1"}
"""Score in result.json -> what it is called in tables."""


def leading(lead: str | None) -> list[str]:
    """Return the scores of `HEADS`, the one that leads the run's summaries first."""
    return sorted(HEADS, key=lambda name: name != lead)


EVERY = 60.0
"""Seconds between two lines on how far something is, where there is no terminal to show a bar."""


class LineWatch:
    """Tells how far something is: a line at the start, one a minute, one at the end.

    Args:
        label: what stands before the numbers. screen: where it is printed. clock: seconds since whenever.
    """

    def __init__(
        self, label: str, screen: Console | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label, self._screen, self._clock = printable(label), screen or console, clock
        self._total = self._first = self._done = 0
        self._begun = self._told = 0.0
        self._text = ""

    def begin(self, done: int, total: int) -> None:
        """Say that work starts, `done` of `total` being done before."""
        self._first = self._done = done
        self._total, self._text = total, ""
        self._begun = self._told = self._clock()
        self._print(f"{self._label} {done} of {total}")

    def advance(self, done: int, text: str = "") -> None:
        """Hear how much is done, with a few words on how it goes."""
        self._done, self._text = done, text
        now = self._clock()
        if now - self._told < EVERY:
            return
        self._told, gone = now, now - self._begun
        left = gone / max(1, done - self._first) * (self._total - done)
        self._print(self._line(f"{_duration(gone)} elapsed, {_duration(left)} left"))

    def end(self) -> None:
        """Say what was done, finished or not."""
        self._print(self._line(f"{_duration(self._clock() - self._begun)} elapsed"))

    def _line(self, times: str) -> str:
        text = f", {self._text}" if self._text else ""
        return f"{self._label} {self._done} of {self._total}: {times}{text}"

    def _print(self, text: str) -> None:
        self._screen.print(printable(text), soft_wrap=True, markup=False, highlight=False)


class BarWatch(LineWatch):
    """Shows a bar with count and time left; the words on how it goes get the room that is left."""

    def begin(self, done: int, total: int) -> None:
        """Show the bar."""
        width = self._screen.width
        label = Column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 3))
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=label),
            BarColumn(bar_width=max(5, min(20, width // 6))),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[text]}", markup=False, table_column=rest),
            console=self._screen,
            transient=True,
            expand=True,
            get_time=self._clock,
            speed_estimate_period=600,  # a step of the paper preset may take a minute on a CPU
        )
        self._bar.start()
        self._task = self._bar.add_task(self._label, total=total, completed=done, text="")

    def advance(self, done: int, text: str = "") -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, text=printable(text))

    def refresh(self) -> None:
        """Draw the bar now; it draws itself ten times a second."""
        self._bar.refresh()

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def watch(label: str, screen: Console | None = None) -> LineWatch:
    """Return a bar on a terminal, lines elsewhere."""
    return (BarWatch if (screen or console).is_terminal else LineWatch)(label, screen)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class LineObserver(Observer):
    """Prints plain lines on a run, a line a minute, for logs and for runs side by side.

    Args:
        label: what stands before the numbers.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._watch = self._watcher(f"{label} step")
        self._begun = False

    def _watcher(self, label: str) -> LineWatch:
        return LineWatch(label)

    def message(self, text: str) -> None:
        """Print one line."""
        console.print(printable(text), soft_wrap=True)

    def begin(self, done: int, total: int) -> None:
        """Say that training starts."""
        self._watch.begin(done, total)
        self._begun = True

    def step(self, report: StepReport, done: int) -> None:
        """Tell the loss and its terms, when it is time."""
        terms = " ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in report.terms.items())
        self._watch.advance(done, f"loss {report.total:.3f} {terms}".rstrip())

    def evaluated(self, scores: Mapping[str, Any], done: int) -> None:
        """Print the target's accuracy."""
        if scores["accuracy"] is None:
            self.message(f"{self._label} after {done} steps: the target has no labels, nothing to score")
            return
        text = " ".join(f"{HEADS[name]} {scores[name]:.4f}" for name in leading(scores.get("lead"))[:2])
        self.message(f"{self._label} after {done} steps: target {text} (n={scores['n']})")

    def end(self) -> None:
        """Say that training is over, finished or not."""
        if self._begun:
            self._watch.end()
            self._begun = False


class ConsoleObserver(LineObserver):
    """Shows a bar on a terminal; plain lines elsewhere."""

    def _watcher(self, label: str) -> LineWatch:
        return watch(label)


def observer_for(jobs: int) -> type[LineObserver]:
    """Return what watches runs, `jobs` at a time: a bar for one, lines for several."""
    return ConsoleObserver if jobs == 1 else LineObserver


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(printable(line), soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    table = Table(title=printable(title), title_justify="left")
    for number, name in enumerate(header):
        table.add_column(printable(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def target_labels(result: Result) -> str:
    """Return what a summary adds where labels of the target were trained on: it is not unsupervised."""
    n = result.target.labelled.n
    return f", trained with {n} target labels" if n else ""


def print_result(result: Result) -> None:
    """Print a finished run's scores on the target."""
    target, names = result.target, leading(result.lead)
    head = ("target", "n", *(HEADS[name] for name in names))
    if target.accuracy is None:
        print_lines(["the target has no labels: its predictions are in predictions.csv"])
        return
    scores = [f"{target.score(name):.4f}" for name in names]
    title = f"{'+'.join(result.plugins)}, seed {result.seed}, checkpoint '{result.selection.rule}'"
    title += f", weights averaged ({result.ema.decay})" if result.ema else ""
    title += target_labels(result)
    print_table(title, head, [(target.spec, str(target.n), *scores)])
    network, pace = result.parameters, result.seconds_per_step
    print_lines([f"{network.trained:,} of {network.total:,} parameters trained, {pace:.3f} s a step"])
    best = result.selection.oracle_best
    if best:
        text = f"oracle best {HEADS[names[0]]} {getattr(best, names[0]):.4f} at step {best.step}"
        print_lines([f"{text} (chosen on target test labels)"])
