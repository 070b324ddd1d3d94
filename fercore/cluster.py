"""Calls on the machines of a Ray cluster: each in a process of its own, made again where a machine is lost.

Ray schedules, restarts and counts machines; here it is only asked, and what it says is put into one line.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from fercore.errors import UserInputError
from fercore.isolation import GRACE, portable
from fercore.stopping import kept_handlers

T = TypeVar("T")
WHERE = "--executor ray"
POLL = 0.5
"""Seconds between two looks at what the machines tell."""


@dataclass(frozen=True)
class Machines:
    """What is asked of a cluster.

    Attributes:
        address: HOST:PORT, "auto" for the one of this machine's environment, None = one that is started here and ends
            with the command. num_cpus, num_gpus: of a call; fractions share one.
        retries: times that a call is made again when its machine is lost.
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    retries: int = 3


def ray_package() -> Any:
    """Return Ray.

    Raises:
        UserInputError: if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserInputError(f"Ray is not there ({error})", where=WHERE, fix="pip install 'fercore[ray]'") from None


class Cluster:
    """A Ray cluster that is connected to; made by `connected`."""

    def __init__(self, ray: Any, machines: Machines) -> None:
        self._ray, self._machines = ray, machines
        self._heard: dict[str, Callable[[str, tuple[Any, ...]], None]] = {}
        node = ray.get_runtime_context().get_node_id()
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        # Beside this process: what it has heard is not lost with a machine.
        here = strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=True)
        self._board = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()

    @property
    def board(self) -> Any:
        """The handle by which calls tell something; see `tell`."""
        return self._board

    def hear(self, name: str, hearer: Callable[[str, tuple[Any, ...]], None]) -> None:
        """Let a function hear what calls tell under a name."""
        self._heard[name] = hearer

    def outcomes(
        self, calls: Iterable[tuple[str, Callable[[], T]]], *, most: int | None = None, fresh: bool = True
    ) -> Generator[tuple[int, T | Exception], None, None]:
        """Yield (number of the call, what it returns or raised) as they end; closing this ends what runs.

        Args:
            calls: (name, function without arguments that can be pickled). most: that are out at a time; None = all, Ray
                keeps those that have no room waiting.
        """
        ray, asked = self._ray, self._machines
        # A call's own error is an answer, which is not tried again; only a lost machine is none.
        task = ray.remote(
            num_cpus=asked.num_cpus, num_gpus=asked.num_gpus, max_retries=asked.retries, max_calls=int(fresh)
        )(_serve)  # fmt: skip
        waiting = enumerate(calls)
        running: dict[Any, tuple[int, str]] = {}
        try:
            while True:
                for index, (name, call) in islice(waiting, None if most is None else most - len(running)):
                    running[task.remote(pickle.dumps(call), os.getcwd())] = index, name
                if not running:
                    self._replay()
                    return
                ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
                self._replay()
                for reference in ready:
                    index, name = running.pop(reference)
                    yield index, self._answer(name, reference)
        finally:
            self._end(list(running))

    def _answer(self, name: str, reference: Any) -> Any:
        try:
            return pickle.loads(self._ray.get(reference))  # noqa: S301 - what `_serve` pickled
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            what = f"{name}: lost with its machine or process: {line}"
            return UserInputError(what, where=WHERE, fix="the same command goes on")

    def _replay(self) -> None:
        """Hand on what calls have told since the last look."""
        try:
            told = self._ray.get(self._board.take.remote())
        except self._ray.exceptions.RayActorError:
            return  # its machine is gone: results still come, the words between do not
        for name, what, arguments in told:
            if name in self._heard:
                self._heard[name](what, arguments)

    def _end(self, references: list[Any]) -> None:
        """Tell calls to end, give them time to save, and end those that do not."""
        if not references:
            return
        for reference in references:
            self._ray.cancel(reference)
        with suppress(self._ray.exceptions.RayError):
            _, left = self._ray.wait(references, num_returns=len(references), timeout=GRACE)
            for reference in left:
                self._ray.cancel(reference, force=True)


class Board:
    """Keeps what calls on other machines tell, until it is taken."""

    def __init__(self) -> None:
        self._told: list[tuple[str, str, tuple[Any, ...]]] = []

    def tell(self, name: str, what: str, arguments: tuple[Any, ...]) -> None:
        """Keep a word."""
        self._told.append((name, what, arguments))

    def take(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """Return all words in the order they came, and forget them."""
        told, self._told = self._told, []
        return told


def _serve(call: bytes, folder: str) -> bytes:
    """Make a call on a machine of the cluster, and return what comes of it."""
    # Paths are as the command had them.
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        return pickle.dumps(pickle.loads(call)())  # noqa: S301 - what `outcomes` pickled
    except Exception as error:
        return pickle.dumps(portable(error))


@contextmanager
def connected(machines: Machines) -> Iterator[Cluster]:
    """Connect to a cluster, or start one on this machine that ends with the block.

    Raises:
        UserInputError: if Ray is not installed, nothing answers, or no machine has what a call asks for.
    """
    ray = ray_package()
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if machines.address is None:
        options |= {"include_dashboard": False}
    elif machines.address != "auto":
        _refuse_silent(machines.address)
    # Ray takes SIGTERM for itself; a command that is told to end says what it keeps.
    with kept_handlers():
        try:
            ray.init(address=machines.address or "local", **options)
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fix = "start one with `ray start --head`, give its HOST:PORT, or leave --address out"
            raise UserInputError(f"no Ray cluster: {line}", where=f"--address {machines.address}", fix=fix) from None
    try:
        _refuse_small(ray.nodes(), machines)
        yield Cluster(ray, machines)
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        fix = "write HOST:PORT, as `ray start --head` prints it"
        raise UserInputError(f"{address!r} is no address", where="--address", fix=fix)
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        fix = "look whether the cluster runs, and whether the port is open from here"
        raise UserInputError(f"no Ray cluster at {address}: {error}", where="--address", fix=fix) from None


def _refuse_small(nodes: Sequence[dict[str, Any]], machines: Machines) -> None:
    """Refuse a call that no machine of the cluster has room for: it would wait for ever."""
    wanted = {"CPU": machines.num_cpus, "GPU": machines.num_gpus}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(node.get(name, 0) >= number for name, number in wanted.items()) for node in alive):
        told = " and ".join(f"{number:g} {name}" for name, number in wanted.items() if number)
        has = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in wanted) for node in alive)
        raise UserInputError(f"no machine of the cluster has {told}: {has}", where=WHERE, fix="ask for less")
