"""Calls in processes of their own: what one does to its process (threads, default types, backends) reaches no other."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

from fercore.errors import UserInputError
from fercore.processes import LAUNCHED, ProcessLostError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

T = TypeVar("T")
PRELOAD = ("fercore.engine.run", "lightning_fabric", "timm")
"""What every run needs, imported once by the server that every process is forked from; its memory is shared."""
GRACE = 60.0
"""Seconds that a process has to save what it must once it is told to stop."""
_NOTICE = 20.0
"""Seconds in which processes of a group end by themselves once one of them has ended."""


def apart(calls: Sequence[tuple[str, Callable[[], T]]], *, jobs: int = 1) -> Iterator[T]:
    """Yield what each call returns, in order, every one made in a fresh process that sees nothing of the others.

    Args:
        calls: (name, function without arguments that can be pickled). jobs: how many run at a time; several have equal
            shares of the CPU threads.

    Raises:
        UserInputError: if a process ends without an answer; names the call.
        BaseException: what a call raised; the calls that run beside it end first, no other begins.
    """
    done: dict[int, T] = {}
    number = 0
    ending = outcomes(calls, jobs=jobs)
    try:
        for index, answer in ending:
            if isinstance(answer, BaseException):
                raise answer
            done[index] = answer
            while number in done:
                yield done.pop(number)
                number += 1
    except Exception as error:
        ending.throw(error)
    finally:
        ending.close()


def outcomes(
    calls: Iterable[tuple[str, Callable[[], T]]], *, jobs: int = 1
) -> Generator[tuple[int, T | Exception], None, None]:
    """Yield (number of the call, what it returns or raised) as they end, every one made in a process of its own.

    An error thrown into this lets the running processes end by themselves and begins no other; closing it stops them.

    Args:
        calls, jobs: as for `apart`; each is asked for when there is room for it, after what was yielded was dealt with.

    Raises:
        BaseException: what a call raised that is no Exception, such as an interrupt.
    """
    waiting = enumerate(calls)
    running: dict[Connection, tuple[int, str, BaseProcess]] = {}
    try:
        while True:
            for index, (name, call) in islice(waiting, jobs - len(running)):
                receiver, process = _start(name, call, jobs)
                running[receiver] = index, name, process
            if not running:
                return
            ready = wait(list(running))
            # In the order they were started, not that of `wait`: of two errors the same one comes first every time.
            for receiver in [one for one in running if one in ready]:
                index, name, process = running[receiver]
                answer: T | Exception
                try:
                    answer = _answer(name, receiver, process)
                except Exception as error:
                    answer = error
                del running[receiver]
                yield index, answer
    except Exception:
        _await(running)
        raise
    finally:
        _stop([process for *_, process in running.values()])


def group(call: Callable[[], T], places: Sequence[Mapping[str, str]]) -> T:
    """Return what a call returns in the first of several processes that make it together.

    Args:
        call: function without arguments that can be pickled. places: of each process, the variables of its environment
            that say which it is.

    Raises:
        ProcessLostError: if a process ends without an answer; the others have ended too.
        BaseException: what a call raised, that of the first process before any other's.
    """
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        for rank, place in enumerate(places):
            receiver, process = _start(f"process {rank}", call, 1, {**place, LAUNCHED: "1"})
            running[receiver] = rank, process
        ends = _ends(running)
    except KeyboardInterrupt:
        # As a scheduler would stop them: all together, after the same batch.
        for _, process in running.values():
            process.terminate()
        said = _last_words(running)
        raise said.get(0) or next(iter(said.values()), KeyboardInterrupt()) from None
    finally:
        _stop([process for _, process in running.values()])
    first: T = _of_all(ends, len(places))
    return first


@dataclass(frozen=True)
class _End:
    """How a process of a group ended: by an answer, an error that it raised, or (None) without a word."""

    good: bool
    value: Any
    code: int | None


def _ends(running: dict[Connection, tuple[int, BaseProcess]]) -> dict[int, _End]:
    """Return how processes ended, by their number; once one has failed, those that end soon after."""
    ends: dict[int, _End] = {}
    until = float("inf")
    while running and time.monotonic() < until:
        for receiver in [one for one in wait(list(running), timeout=1.0) if isinstance(one, Connection)]:
            rank, process = running.pop(receiver)
            try:
                good, value = receiver.recv()
            except EOFError:
                good, value = False, None
            process.join()
            ends[rank] = _End(good, value, process.exitcode)
        if not all(end.good for end in ends.values()):
            # The others notice by their connections, and say what they know; one that waits for a device does not.
            until = min(until, time.monotonic() + _NOTICE)
    return ends


def _of_all(ends: Mapping[int, _End], count: int) -> Any:
    """Return the first process's answer, or raise what kept the group from it."""
    failed = {rank: ends[rank] for rank in sorted(ends) if not ends[rank].good}
    told = [end.value for end in failed.values() if end.value is not None]
    own = [error for error in told if not isinstance(error, ProcessLostError)]
    if own:
        raise own[0]
    lost = [(rank, end.code) for rank, end in failed.items() if end.value is None]
    if lost:
        rank, code = lost[0]
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        kept = str(told[0]).partition("; ")[2] if told else ""
        what = f"process {rank} of {count} ended without a word, {how}"
        raise ProcessLostError(f"{what}; {kept}" if kept else what)
    if told:
        # This process tells of it, whichever had noticed.
        raise ProcessLostError(str(told[0]), first=True) from told[0]
    return ends[0].value


def _last_words(running: Mapping[Connection, tuple[int, BaseProcess]]) -> dict[int, BaseException]:
    """Return what processes say that were told to end, by their number."""
    said: dict[int, BaseException] = {}
    until = time.monotonic() + GRACE
    for receiver, (rank, process) in running.items():
        with suppress(EOFError):
            if receiver.poll(max(0.0, until - time.monotonic())):
                good, value = receiver.recv()
                if not good:
                    said[rank] = value
        process.join(max(0.0, until - time.monotonic()))
    return said


def share_out(
    work: Callable[[Any], T], items: Iterable[Any], count: int, begin: Callable[..., None], *arguments: Any, fork: bool
) -> Iterator[tuple[int, T]]:
    """Yield (number of the item, what `work` makes of it) as they are done, by processes that none outlives this call.

    No thread and no lock is in it that a signal could leave half-way, as in the pools of the standard library.

    Args:
        work: called with each item. items: what is handed out, one at a time. count: processes.
        begin, arguments: a call that each process makes first. fork: whether they inherit this one's memory.

    Raises:
        UserInputError: if a process ends without an answer.
        Exception: what a call raised.
    """
    context = multiprocessing.get_context("fork" if fork else "spawn")
    waiting = enumerate(items)
    workers: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, int] = {}

    def hand_out(worker: Connection) -> None:
        for number, item in waiting:
            busy[worker] = number
            worker.send(item)
            return

    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, work, begin, arguments))  # type: ignore[attr-defined]
            process.start()
            # Only the worker may hold that end: this side then reads the end of the file when the worker dies.
            there.close()
            workers[here] = process
            hand_out(here)
        while busy:
            for worker in [one for one in wait(list(busy)) if isinstance(one, Connection)]:
                good, answer = worker.recv()
                number = busy.pop(worker)
                if not good:
                    raise answer
                hand_out(worker)
                yield number, answer
    except (EOFError, ConnectionError):
        fix = "give the same command again, with fewer --workers where it has them"
        raise UserInputError("a worker process died, perhaps for want of memory", fix=fix) from None
    finally:
        for process in workers.values():
            # All told before any is waited for.
            process.terminate()
        for worker, process in workers.items():
            process.join()
            worker.close()


def can_fork() -> bool:
    """Return whether a process may be forked here."""
    return "fork" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon


def _work(
    connection: Connection, work: Callable[[Any], Any], begin: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    # The process that this one was forked from hears Ctrl-C for both; any other signal ends this one at once.
    for name, action in (("SIGINT", signal.SIG_IGN), ("SIGTERM", signal.SIG_DFL), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), action)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)
    while True:
        item = connection.recv()
        try:
            # Pickled inside the try: an answer that cannot be is an error of this item, not the end of the worker.
            answer = pickle.dumps((True, work(item)))
        except Exception as error:
            answer = pickle.dumps((False, portable(error)))
        connection.send_bytes(answer)


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: killed, it cannot send the workers home."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start(
    name: str, call: Callable[[], Any], jobs: int, environ: Mapping[str, str] | None = None
) -> tuple[Connection, BaseProcess]:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([*PRELOAD])
    receiver, sender = context.Pipe(duplex=False)
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    # A fork server keeps the folder and environment it was started in, for all later calls.
    arguments = (sender, call, os.getcwd(), {**os.environ, **(environ or {})}, threads)
    process = context.Process(target=_serve, args=arguments, name=name)  # type: ignore[attr-defined]
    process.start()
    # As above: the receiver must see the end when the process is gone.
    sender.close()
    return receiver, process


def _answer(name: str, receiver: Connection, process: BaseProcess) -> Any:
    """Return what a process sent, or raise what it raised."""
    try:
        good, value = receiver.recv()
    except EOFError:
        process.join()
        fix = "killed by the system, perhaps for memory, or left by a plugin; the same command goes on"
        how = f"ended without a word, exit code {process.exitcode}"
        raise UserInputError(f"{name}: {how}", where="a process of its own", fix=fix) from None
    process.join()
    if good:
        return value
    raise value


def _await(running: Mapping[Connection, tuple[int, str, BaseProcess]]) -> None:
    """Let processes end by themselves; their answers are taken, so that none waits for a reader, and dropped."""
    for receiver, (*_, process) in running.items():
        with suppress(EOFError):
            receiver.recv_bytes()
        process.join()


def _serve(
    sender: Connection, call: Callable[[], Any], folder: str, environ: dict[str, str], threads: int | None
) -> None:
    """Make one call in this process and send what comes of it."""
    # The terminal sends Ctrl-C to every process; the parent alone hears it, and tells this one once by SIGTERM.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.chdir(folder)
    os.environ.update(environ)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        answer = pickle.dumps((True, call()))
    except BaseException as error:
        answer = pickle.dumps((False, portable(error)))
    # Who asked may be gone, or be stopped: it has said so itself, and nobody waits for this answer.
    with suppress(BrokenPipeError):
        sender.send_bytes(answer)


def _follow_parent() -> None:
    """End this process when the one that wants its answer is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        # After `GRACE` seconds: whatever still runs saves into nothing.
        os._exit(1)


def portable(error: BaseException) -> BaseException:
    """Return an error that another process can read, with where it was raised as a note."""
    if isinstance(error, UserInputError | KeyboardInterrupt):
        return error
    error.add_note("".join(traceback.format_exception(error)).rstrip())
    try:
        # An exception whose constructor takes other arguments pickles, and fails only when it is read.
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.__notes__ = list(error.__notes__)
        return plain
    return error


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Tell processes to end, and wait for them; at a second interrupt, or when they take too long, kill them."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GRACE
    try:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
