"""A run ends in its time: at its deadline it is taken as it stands, or given up where that is good for nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.records.plan import StepReport
from fercore.records.result import Score, Scores
from fercore.terminal import counted


class OutOfTime(UserInputError):
    """A run whose time was over before it was good for anything."""


class Deadline(Observer):
    """Hears of a run, and ends its training when its time is over.

    Args:
        observe: makes what else hears of it, from its label. seconds: from now. least: steps that it has in any case.
        label: of the run.
    """

    def __init__(self, observe: Callable[[str], Observer], seconds: float, least: int, label: str) -> None:
        self._inner, self._least, self._until = observe(label), least, time.monotonic() + seconds

    def message(self, text: str) -> None:
        """Hand it on."""
        self._inner.message(text)

    def begin(self, done: int, total: int) -> None:
        """Hand it on."""
        self._inner.begin(done, total)

    def step(self, report: StepReport, done: int) -> None:
        """Hand it on."""
        self._inner.step(report, done)

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Hand it on."""
        self._inner.evaluated(scores, primary_metric, done)

    def selected(self, scores: Mapping[str, float], done: int) -> None:
        """Hand it on."""
        self._inner.selected(scores, done)

    def enough(self, done: int, *, usable: bool) -> bool:
        """Say whether the time is over.

        Raises:
            OutOfTime: if it is, and the network is good for nothing yet.
        """
        if done < self._least or time.monotonic() < self._until:
            return False
        if not usable:
            raise OutOfTime(f"took longer than was left for it, after {counted(done, 'step')}", where="--budget")
        self._inner.message(f"its time is over after {counted(done, 'step')}: it is taken as it stands")
        return True

    def end(self) -> None:
        """Hand it on."""
        self._inner.end()
