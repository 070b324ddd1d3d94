"""What has been prepared so far: one JSON line an image, so that an interrupted preparation goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fercore.errors import UserInputError

NAME = "journal.jsonl"


class Journal:
    """The journal of one output folder.

    Args:
        folder: the output folder, made if it is not there. how: what decides the result; another preparation in the
            folder is refused.

    Attributes:
        done: key -> record of images that need not be looked at again.

    Raises:
        UserInputError: if the folder holds something else, or another preparation.
    """

    def __init__(self, folder: Path, how: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists() and any(folder.iterdir()):
            raise UserInputError("the output folder is not empty", where=str(folder), fix="choose a new folder")
        lines = self._lines()
        if lines and lines[0] != {"how": dict(how)}:
            fix = "choose a new folder, or give the settings of the first time"
            raise UserInputError("the folder holds a preparation with other settings", where=str(folder), fix=fix)
        self.done = {str(line["key"]): line for line in lines[1:]}
        self._file = self.path.open("a", encoding="utf-8")
        if not lines:
            self.write({"how": dict(how)})

    def _lines(self) -> list[dict[str, Any]]:
        """Return the whole lines; a last one that was cut short is cut off."""
        if not self.path.exists():
            return []
        lines: list[dict[str, Any]] = []
        end = 0
        content = self.path.read_bytes()
        for raw in content.splitlines(keepends=True):
            try:
                line = json.loads(raw)
            except ValueError:
                break
            wanted = {"key", "mark"} if lines else {"how"}
            if not raw.endswith(b"\n") or not isinstance(line, dict) or not wanted <= set(line):
                break
            lines.append(line)
            end += len(raw)
        if end < len(content):
            os.truncate(self.path, end)
        return lines

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record, whole."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
