"""The way out to a terminal: names, paths and texts of others are shown, and never obeyed.

A file, class or package may be called by what a terminal takes for an order: a new title, a colour, a cleared screen,
letters that run backwards. Everything fercore prints goes through `printable`.
"""

from __future__ import annotations

import json
import logging
import sys


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


def show_warnings() -> None:
    """Let warnings of the log, which name files too, go the same way where nobody else has set up logging."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
