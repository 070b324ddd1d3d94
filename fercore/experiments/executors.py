"""What runs cells: processes of this machine; `fercore.experiments.ray_executor` has those of many."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fercore.engine.observer import Observer
from fercore.isolation import outcomes
from fercore.records.result import Result

Calls: TypeAlias = Iterable[tuple[str, Callable[[], Result]]]


class Executor(Protocol):
    """What runs cells, each by itself, here or elsewhere."""

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

    def run(self, calls: Calls) -> Generator[tuple[int, Result | Exception], None, None]:
        """Yield (number of the call, what it returns or raised) as they end; a call is asked for when there is room."""
        return outcomes(calls, jobs=self.jobs)


def silent(label: str) -> Observer:
    """Return an observer that says nothing."""
    return Observer()
