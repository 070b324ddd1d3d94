"""How far something is: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from fercore.terminal import printable

console = Console(width=None if sys.stdout.isatty() else 132, markup=False, emoji=False, highlight=False)
"""What is printed are names, paths and settings of others: brackets and colons are no markup."""

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
        # Only what was done since the start counts: a resumed run has not spent time on the rest.
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
