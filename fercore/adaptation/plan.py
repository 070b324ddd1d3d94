"""How the time is spent: steps of a source model and of the methods that start from it, by what each step takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from fercore.adaptation.budget import time_text
from fercore.documents import Shape
from fercore.errors import UserInputError
from fercore.terminal import counted

RESERVE, LEAST_RESERVE = 0.1, 20.0
"""Share of the budget, and seconds at least, that are kept for calibration, export and report."""
SOURCE_SHARE = 0.4
"""Share of the time for training that a source model gets: it matters more than any adaptation."""
LEAST_SOURCE, MOST_SOURCE = 50, 3000
LEAST_STEPS, MOST_STEPS = 40, 600
FINALISTS = 3
SHORTER = 4
"""The first round has so many times fewer steps than the last."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Timing(Shape):
    """What a short run took.

    Attributes:
        step: seconds of one. around: seconds of all else: start, evaluation, writing. after: those of them that follow
            the last step. memory_mb: the most, MiB.
    """

    step: Seconds
    around: Seconds
    after: Seconds = 0.0
    memory_mb: Seconds

    def seconds(self, steps: int) -> float:
        """Return how long a run of so many steps takes."""
        return self.around + self.step * steps


class Plan(Shape):
    """What is trained, and for how long.

    Attributes:
        source_steps: of the source model; 0 = one is given. rounds: steps of each round of the race; one or two.
        rows: of the portfolio, by label. finalists: of the first round that enter the last. left: label -> why a row
            is not tried. timing: label -> what its short run took. reserve: seconds kept for what comes after.
        seconds: that all of it is expected to take from here on.
    """

    source_steps: int
    rounds: list[int]
    rows: list[str]
    finalists: int
    left: dict[str, str]
    timing: dict[str, Timing]
    reserve: Seconds
    seconds: Seconds

    def race_seconds(self, rows: Collection[str] | None = None, jobs: int = 1) -> tuple[float, float]:
        """Return how long the first round and the last take of these rows, with the dearest ones in the last.

        Args:
            rows: labels; None = all of the plan. jobs: how many train at a time.
        """
        every = [self.timing[row] for row in (self.rows if rows is None else rows)]
        return _rounds(every, self.rounds, jobs)

    def lines(self, reference: str) -> list[str]:
        """Return the plan for people.

        Args:
            reference: label of the row that is trained on without adapting; "" without one.
        """
        lines = []
        if self.source_steps:
            lines.append(f"source model: {counted(self.source_steps, 'step')}, the start of every method")
        beside = f", with {reference} beside them" if reference else ""
        if len(self.rounds) > 1:
            first = f"first round: {counted(len(self.rows), 'method')} x {self.rounds[0]} steps"
            lines.append(f"{first}, scored without labels; the best {self.finalists} go on")
        last = f"{counted(min(self.finalists, len(self.rows)), 'method')} x {self.rounds[-1]} steps"
        lines.append(f"last round: {last}{beside}")
        lines += [
            f"  {label}: {1000 * self.timing[label].step:.0f} ms a step, {self.timing[label].memory_mb:.0f} MiB"
            for label in self.rows
        ]
        lines += [f"  left out: {label}: {reason}" for label, reason in self.left.items()]
        return [*lines, f"expected: {time_text(self.seconds + self.reserve)}, calibration and report included"]


def lay_out(
    rows: Sequence[str],
    left: Mapping[str, str],
    timing: Mapping[str, Timing],
    *,
    first: str,
    reference: str,
    trains_source: bool,
    total: float,
    spent: float,
    jobs: int = 1,
) -> Plan:
    """Share out the time.

    Args:
        rows: of the portfolio that suit the task, the most wanted first. left: why others do not.
        timing: of each, and of `first` and `reference`. first: label of the model as it is. reference: as for
            `Plan.lines`. trains_source: whether a source model is trained. total, spent: seconds. jobs: how many
            methods train at a time; what each takes then is in `timing`.

    Raises:
        UserInputError: if the time is too short for the model as it is and the reference.
    """
    reserve = reserve_of(total)
    usable = total - spent - reserve
    source_steps, source_seconds = 0, 0.0
    if trains_source:
        source = timing[reference]
        source_steps = int(min(MOST_SOURCE, (SOURCE_SHARE * usable - source.around) / source.step))
        source_steps = max(LEAST_SOURCE, source_steps)
        source_seconds = source.seconds(source_steps)
    rest = usable - source_seconds - timing[first].around
    kept, left = list(rows), dict(left)
    while (steps := _steps(kept, timing, reference, rest, jobs)) < LEAST_STEPS and kept:
        left[kept.pop()] = "no time for it"
    if steps < LEAST_STEPS and (trains_source or reference):
        least = timing[first].around + (timing[reference].seconds(LEAST_STEPS) if reference else 0)
        least += timing[reference].seconds(LEAST_SOURCE) if trains_source else 0
        what = f"no time for even the reference: {time_text(max(0, total - spent))} are left of {time_text(total)}"
        fix = f"give --budget {int((spent + least) / 60 / (1 - RESERVE)) + 2}m or more, or start from --init MODEL"
        raise UserInputError(what, where="--budget", fix=fix)
    steps = max(LEAST_STEPS, min(MOST_STEPS, steps))
    rounds = [max(1, steps // SHORTER), steps] if len(kept) > FINALISTS else [steps]
    return Plan(
        source_steps=source_steps,
        rounds=rounds,
        rows=kept,
        finalists=min(FINALISTS, len(kept)),
        left=left,
        timing=dict(timing),
        reserve=reserve,
        seconds=source_seconds + timing[first].around + _cost(steps, kept, timing, reference, jobs),
    )


def reserve_of(total: float) -> float:
    """Return how many of all seconds are kept for what comes after training."""
    return max(LEAST_RESERVE, RESERVE * total)


def _rounds(rows: Sequence[Timing], rounds: Sequence[int], jobs: int) -> tuple[float, float]:
    """Return the seconds of a first round of all rows, where there is one, and of a last of the dearest ones."""
    early = [row.seconds(rounds[0]) for row in rows] if len(rows) > FINALISTS and len(rounds) > 1 else []
    late = sorted((row.seconds(rounds[-1]) for row in rows), reverse=True)[:FINALISTS]
    return _beside(early, jobs), _beside(late, jobs)


def _beside(seconds: Sequence[float], jobs: int) -> float:
    """Return how long runs take, some at a time: no less than the longest."""
    return max([0.0, sum(seconds) / jobs, *seconds])


def _cost(steps: int, rows: Sequence[str], timing: Mapping[str, Timing], reference: str, jobs: int) -> float:
    """Return seconds of the race with so many steps in its last round."""
    alone = timing[reference].seconds(steps) if reference else 0.0
    return alone + sum(_rounds([timing[row] for row in rows], (steps // SHORTER, steps), jobs))


def _steps(rows: Sequence[str], timing: Mapping[str, Timing], reference: str, rest: float, jobs: int) -> int:
    """Return the most steps, up to `MOST_STEPS`, whose race takes no longer than `rest` seconds; 0 if none."""
    low, high = 0, MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _cost(middle, rows, timing, reference, jobs) <= rest else (low, middle - 1)
    return low
