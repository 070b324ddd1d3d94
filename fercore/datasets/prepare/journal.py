"""What has been prepared so far: one JSON line an image, so that an interrupted preparation goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fercore.errors import UserInputError
from fercore.files import read_bytes
from fercore.writing import cut, open_present, write_fault, writing

NAME, LOCK = "journal.jsonl", ".prepare.lock"


class Journal:
    """The journal of one output folder.

    Args:
        folder: the output folder, made if it is not there, and locked until `close`. how: what decides the result;
            another preparation in the folder is refused.

    Attributes:
        done: place of the result in the folder, without suffix -> record of an image that has been looked at.

    Raises:
        UserInputError: if the folder cannot be made, holds something else or another preparation, or another process
            is at work in it.
    """

    def __init__(self, folder: Path, how: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self._lock = FileLock(folder / LOCK)
        try:
            self._open(folder, dict(how))
        except Timeout:
            what = "another process prepares faces in this folder"
            raise UserInputError(what, where=str(folder), fix="wait for it, or choose a new folder") from None
        except OSError as error:
            raise write_fault(error, folder) from None
        except UserInputError:
            self._lock.release()
            raise

    def _open(self, folder: Path, how: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() and any(child.name != LOCK for child in folder.iterdir()):
            raise UserInputError("the output folder is not empty", where=str(folder), fix="choose a new folder")
        self._lock.acquire(timeout=0)
        # Read under the lock: another process could be writing.
        lines = self._lines()
        if lines and lines[0] != {"how": how}:
            fix = "choose a new folder, or give the settings of the first time"
            raise UserInputError("the folder holds a preparation with other settings", where=str(folder), fix=fix)
        self.done = {str(line["place"]): line for line in lines[1:]}
        # A name that is no UTF-8 is written as JSON's own escapes, and read back as it was.
        handle = open_present(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._file = os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")
        if not lines:
            self.write({"how": how})

    def _lines(self) -> list[dict[str, Any]]:
        """Return the whole lines; a last one that was cut short is cut off."""
        if not self.path.exists():
            return []
        lines: list[dict[str, Any]] = []
        end = 0
        content = read_bytes(self.path)
        for raw in content.splitlines(keepends=True):
            try:
                line = json.loads(raw)
            except ValueError:
                break
            wanted = {"place", "key", "mark"} if lines else {"how"}
            # A kill leaves half a line at most, and it is the last one.
            if not raw.endswith(b"\n") or not isinstance(line, dict) or not wanted <= set(line):
                break
            lines.append(line)
            end += len(raw)
        if end < len(content):
            cut(self.path, end)
        return lines

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record, whole.

        Raises:
            WriteError: if it cannot be written.
        """
        with writing(self.path):
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            # To the system, not to the disk: a kill of the process loses nothing.
            self._file.flush()

    def close(self) -> None:
        """Close the file and let others into the folder."""
        with suppress(OSError):  # what it had no room for has been told
            self._file.close()
        self._lock.release()
