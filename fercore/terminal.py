"""The way out to a terminal: names, paths and texts of others are shown, and never obeyed.

A file, class or package may be called by what a terminal takes for an order: a new title, a colour, a cleared screen,
letters that run backwards. Everything fercore prints goes through `printable`.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with every character that is not shown as itself written as an escape, e.g. \u001b.

    Args:
        text: any text. keep: characters to leave as they are, such as ends of lines in a text of several.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def counted(n: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2 images", "3 classes"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def _escape(char: str) -> str:
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]  # as in JSON, so that printed JSON stays JSON


def say(text: str, *, keep: str = "", error: bool = False) -> None:
    """Print one line, to the standard error if it is of one.

    Args:
        text: the line. keep: as for `printable`. error: whether it goes to the standard error.
    """
    stream = sys.stderr if error else sys.stdout
    stream.write(printable(text, keep) + "\n")
    stream.flush()


@contextmanager
def without_notices() -> Iterator[None]:
    """Keep the log's warnings back while a finished run is rebuilt: of its settings they were given when it began."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


class _Outlet(io.FileIO):
    """A standard stream that may fail without ending what is at work: its reader gone, its terminal, room on its disk.

    Attributes:
        fault: why nothing can be written to it any more; what is, is dropped. None = it can.
    """

    fault: OSError | None = None

    def write(self, content: Any, /) -> int:
        """Write bytes, or drop them where that fails."""
        if self.fault is None:
            try:
                return super().write(content)
            except OSError as error:
                self.fault = error
        return len(content)


def lost_output() -> OSError | None:
    """Return why some of the standard output was not written; None if all was, or nobody wants to read it any more."""
    fault: OSError | None = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "fault", None)
    # A reader that has seen enough (`| head`) is no fault.
    return None if fault is None or fault.errno == errno.EPIPE else fault


def _outlet(stream: Any) -> Any:
    """Return a standard stream over an `_Outlet`; None, of one that was closed from the start, becomes a sink."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    buffer = getattr(stream, "buffer", None)
    if type(getattr(buffer, "raw", buffer)) is not io.FileIO:  # PYTHONUNBUFFERED has no buffer
        return stream  # somebody's own, or an outlet already
    # closefd=False: the first stream object still owns the descriptor.
    raw = io.BufferedWriter(_Outlet(stream.fileno(), "wb", closefd=False))
    # What the terminal's encoding has no sign for is written as an escape.
    return io.TextIOWrapper(
        raw,
        stream.encoding,
        "backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def guard_streams() -> None:
    """Let what Python itself prints, names of files in it, go the same way: warnings, the log's, errors of no user.

    The log is left alone where somebody else has set it up. A standard stream that cannot be written is no error here.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number: no file loaded later is taken for a stream
    sys.stdout, sys.stderr = _outlet(sys.stdout), _outlet(sys.stderr)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
    warnings.showwarning = _show_warning
    # What an image suffers from is told beside it; Pillow's own words name none.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    sys.excepthook = _show_error
    threading.excepthook = lambda end: _show_error(end.exc_type, end.exc_value, end.exc_traceback)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    say(warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n"), keep="\n", error=True)


def _show_error(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), keep="\n", error=True)
