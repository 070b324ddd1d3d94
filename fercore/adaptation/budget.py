"""The time that an adaptation may take, kept through kills: what was spent by then counts."""

from __future__ import annotations

import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pydantic import Field

from fercore.documents import Shape, misfit, parse_json
from fercore.errors import UserInputError
from fercore.files import read_text
from fercore.writing import write_json

SPENT = "spent.json"
BEAT = 5.0
"""Seconds between two notes of the time spent: a kill loses no more of it."""
UNITS = {"s": 1, "m": 60, "h": 3600}
TEXT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([smh])")


class _Spent(Shape):
    seconds: float = Field(ge=0, allow_inf_nan=False)


def seconds_of(text: str) -> float:
    """Read a length of time, "30m", "90s" or "1.5h", as seconds.

    Raises:
        UserInputError: if it is none, or nothing.
    """
    match = TEXT.fullmatch(text.strip().lower())
    seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    if not seconds:
        raise UserInputError(f"cannot read a time in {text!r}", where="--budget", fix="write 30m, 90s or 1.5h")
    return seconds


def time_text(seconds: float) -> str:
    """Return seconds for people: "40 s", "7 min", "1.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Budget:
    """Seconds to spend; as a context it notes in its folder how many are spent.

    Args:
        seconds: in all. folder: of the adaptation; what was spent in it before counts.

    Raises:
        UserInputError: if the note there cannot be read.
    """

    def __init__(self, seconds: float, folder: Path) -> None:
        self.seconds, self._file = seconds, folder / SPENT
        self._before = _read(self._file)
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._note, daemon=True)

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self._before + time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds left; below 0 if there are none."""
        return self.seconds - self.spent

    def __enter__(self) -> Budget:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(UserInputError):  # on a full disk; whatever filled it has been said
            self._write()

    def _note(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(UserInputError):
                self._write()

    def _write(self) -> None:
        write_json(self._file, {"seconds": self.spent})


def _read(file: Path) -> float:
    try:
        record = parse_json(read_text(file), where=str(file))
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError):
        record = None
    if fault := misfit(record, _Spent):
        raise UserInputError(f"{SPENT} is damaged: {fault}", where=str(file), fix="delete it: the budget begins anew")
    return _Spent.model_validate(record).seconds
