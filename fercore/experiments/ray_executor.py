"""Runs cells of a study on the machines of a Ray cluster, all heard in one place."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fercore.cluster import Cluster, Machines, connected
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.experiments.executors import Calls
from fercore.experiments.storage import Storage, kept_on
from fercore.records.plan import StepReport
from fercore.records.result import Result, Score, Scores
from fercore.runs.folder import RunFolder

T = TypeVar("T")
TOLD = 1.0
"""Seconds between two steps of a run that are told across the network."""
LOCKED = 90.0
"""Seconds that a run waits for its folder: a process whose machine is lost may live a little longer."""


class RayExecutor:
    """Runs cells as tasks of a cluster; made by `on_cluster`."""

    def __init__(self, cluster: Cluster, storage: Storage | None, most: int | None) -> None:
        self._cluster, self._storage, self._most = cluster, storage, most

    def observing(self, observe: Callable[[str], Observer]) -> Callable[[str], Observer]:
        """Return what makes observers on the machines; they are heard by `observe`'s here."""
        watchers: dict[str, Observer] = {}

        def hear(label: str, what: str, arguments: tuple[Any, ...]) -> None:
            watcher = watchers.setdefault(label, observe(label))
            getattr(watcher, what)(*arguments)

        self._cluster.hear("run", lambda what, arguments: hear(arguments[0], what, arguments[1:]))
        return partial(Relayed, self._cluster.board)

    def run(self, calls: Calls) -> Generator[tuple[int, Result | Exception], None, None]:
        """Yield (number of the call, what it returns or raised) as they end; see `Executor`."""
        folders: list[Path] = []

        def tasks() -> Iterator[tuple[str, Callable[[], Result]]]:
            for call in calls:
                folders.append(call.folder)
                made: Callable[[], Result] = partial(when_free, call.folder, call.make)
                if self._storage is not None:
                    made = partial(kept_on, self._storage, call.folder, call.start, made)
                yield call.label, made

        for number, answer in self._cluster.outcomes(tasks(), most=self._most):
            yield number, answer if isinstance(answer, Exception) else self._here(folders[number], answer)

    def _here(self, folder: Path, answer: Result) -> Result | Exception:
        """Bring a finished run folder to this machine, if it is not there."""
        if RunFolder(folder).finished:
            return answer
        if self._storage is not None and self._storage.pull(folder):
            return answer
        fix = "give --storage with a URL that all machines reach, or an --out on a disk that they share"
        return UserInputError("the run was finished where this machine cannot see it", where=str(folder), fix=fix)


@contextmanager
def on_cluster(
    machines: Machines, root: Path, *, storage: str | None = None, most: int | None = None
) -> Iterator[RayExecutor]:
    """Connect to a cluster for the cells of a study.

    Args:
        root: the study's folder. storage: URL where run folders are kept; None = all machines see `root`.
        most: cells that are out at a time; None = as many as there is room for.

    Raises:
        UserInputError: if there is no cluster, or the storage refuses.
    """
    kept = None if storage is None else Storage(storage, root)
    if kept is not None:
        kept.check()
    with connected(machines) as cluster:
        yield RayExecutor(cluster, kept, most)


def when_free(folder: Path, call: Callable[[], T]) -> T:
    """Make a call once no other process is at work in a run folder."""
    until = time.monotonic() + LOCKED
    while RunFolder(folder).begun:
        try:
            RunFolder(folder).refuse_in_use()
            break
        except UserInputError:
            if time.monotonic() > until:
                raise
            time.sleep(1)
    return call()


class Relayed(Observer):
    """Tells what a run says to the process that started it.

    Args:
        board: handle of the cluster's board. label: of the run.
    """

    def __init__(self, board: Any, label: str) -> None:
        self._board, self._label, self._told = board, label, 0.0

    def _tell(self, what: str, *arguments: Any) -> None:
        self._board.tell.remote("run", what, (self._label, *arguments))

    def message(self, text: str) -> None:
        """Tell it."""
        self._tell("message", text)

    def begin(self, done: int, total: int) -> None:
        """Tell it."""
        self._tell("begin", done, total)

    def step(self, report: StepReport, done: int) -> None:
        """Tell it, once a second."""
        if time.monotonic() - self._told >= TOLD:
            self._told = time.monotonic()
            self._tell("step", report, done)

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Tell it."""
        self._tell("evaluated", scores, primary_metric, done)

    def selected(self, scores: Mapping[str, float], done: int) -> None:
        """Tell it."""
        self._tell("selected", dict(scores), done)

    def end(self) -> None:
        """Tell it."""
        self._tell("end")
