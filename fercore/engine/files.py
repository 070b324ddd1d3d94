"""Files that are there completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def without_none(tree: Any) -> Any:
    """Return nested tables without None values, which TOML cannot hold; None always means "not given"."""
    if isinstance(tree, Mapping):
        return {key: without_none(value) for key, value in tree.items() if value is not None}
    return tree


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there completely or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def write_json(path: Path, values: Any) -> None:
    """Write JSON so that it is there completely or not at all."""
    write_whole(path, json.dumps(values, indent=2) + "\n")
