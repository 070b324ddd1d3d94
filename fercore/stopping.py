"""Ctrl-C, a scheduler's SIGTERM and a closed terminal: a command ends in order, and a run keeps what it has."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeAlias

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
HEARD = b"\nstopping after this batch, with a checkpoint; once more stops at once\n"

Handler: TypeAlias = Callable[[int, FrameType | None], None]


class Interrupted(KeyboardInterrupt):
    """A signal ended the command.

    Args:
        number: the signal. text: what was kept, and how to go on.
    """

    def __init__(self, number: int = signal.SIGINT, text: str = "") -> None:
        super().__init__(number, text)
        self.number, self.text = number, text


def number_of(stop: KeyboardInterrupt) -> int:
    """Return the signal that an interrupt came from; a plain one is Ctrl-C."""
    return stop.number if isinstance(stop, Interrupted) else signal.SIGINT


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Let a function hear of SIGNALS, as far as they are not ignored (nohup) and this is the main thread.

    A process that is forked meanwhile leaves Ctrl-C to this one, which still wants what it does; any other signal ends
    it, as when a pool is closed.
    """
    owner, before = os.getpid(), {}

    def hear(number: int, frame: FrameType | None) -> None:
        # Handlers are inherited by a fork.
        if os.getpid() == owner:
            handler(number, frame)
        elif number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, hear)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def kept_handlers(numbers: Iterable[int] = SIGNALS) -> Iterator[None]:
    """Give signals back to whom they had, whatever a library makes of them within; of the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None = None) -> None:
    """Raise `Interrupted`, so that drafts are removed and locks given back whatever the signal."""
    raise Interrupted(number)


class StopRequest:
    """Hears signals on behalf of a run.

    Attributes:
        patient: while true, a first signal only leaves its number in `asked`, for the run to stop between two batches;
            a second one interrupts at once, as every signal does otherwise.
        asked: the signal heard, or None.

    Args:
        quiet: another process of the run says that the signal was heard.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.patient, self._quiet = False, quiet
        self.asked: int | None = None

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal; see `patient`."""
        first, self.asked = self.asked is None, number
        if not (self.patient and first):
            interrupt(number)
        if self._quiet:
            return
        with suppress(OSError):  # the terminal that is told may be the one that was closed
            # os.write, as a signal may come in the middle of another print: Python's streams are not reentrant.
            os.write(2, HEARD)

    def obey(self) -> None:
        """Interrupt the run if a signal asked for it; what must be kept has been kept.

        Raises:
            Interrupted: with that signal.
        """
        if self.asked is not None:
            interrupt(self.asked)
