"""The way out to a terminal: names, paths and texts of others are shown, and never obeyed.

A file, class or package may be called by what a terminal takes for an order: a new title, a colour, a cleared screen,
letters that run backwards. Everything fercore prints goes through `printable`.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
import warnings
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


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def guard_streams() -> None:
    """Let what Python itself prints, names of files in it, go the same way: warnings, the log's, errors of no user.

    The log is left alone where somebody else has set it up.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
    warnings.showwarning = _show_warning
    sys.excepthook = _show_error
    threading.excepthook = lambda end: _show_error(end.exc_type, end.exc_value, end.exc_traceback)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    say(warnings.formatwarning(message, category, filename, lineno, line).rstrip("\n"), keep="\n", error=True)


def _show_error(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), keep="\n", error=True)
