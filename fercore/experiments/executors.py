"""What runs cells: processes of this machine; `fercore.experiments.ray_executor` has those of many."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from fercore.engine.observer import Observer
from fercore.isolation import outcomes
from fercore.records.result import Result


@dataclass(frozen=True)
class CellCall:
    """A run to be made.

    Attributes:
        label: of the cell. make: trains it, without arguments; it can be pickled. folder: its run folder.
        start: the run folder whose model it starts from.
    """

    label: str
    make: Callable[[], Result]
    folder: Path
    start: Path | None = None


Calls: TypeAlias = Iterable[CellCall]


class Executor(Protocol):
    """What runs cells, each by itself, here or elsewhere."""

    def observing(self, observe: Callable[[str], Observer]) -> Callable[[str], Observer]:
        """Return what makes observers where the runs are; they are heard by those that `observe` makes here."""
        ...

    def run(self, calls: Calls) -> Generator[tuple[int, Result | Exception], None, None]:
        """Yield (number of the call, what it returns or raised) as they end; a call is asked for when there is room."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """Runs cells in processes of this machine.

    Attributes:
        jobs: cells at a time; several have equal shares of the CPU threads.
    """

    jobs: int = 1

    def observing(self, observe: Callable[[str], Observer]) -> Callable[[str], Observer]:
        """Return it as it is: runs print by themselves."""
        return observe

    def run(self, calls: Calls) -> Generator[tuple[int, Result | Exception], None, None]:
        """Yield (number of the call, what it returns or raised) as they end; a call is asked for when there is room."""
        return outcomes(((call.label, call.make) for call in calls), jobs=self.jobs)


def silent(label: str) -> Observer:
    """Return an observer that says nothing."""
    return Observer()
