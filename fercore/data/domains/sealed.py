"""Records as JSON files that carry a hash of themselves, so that an edit by hand shows: splits and labelled splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fercore.documents import Shape, misfit, parse_json
from fercore.errors import UserInputError
from fercore.files import read_text


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its hash."""
    return {**record, "sha256": _hash(record)}


def read_sealed(path: Path, kind: str, shape: type[Shape], *, name: str, option: str, fix: str) -> dict[str, Any]:
    """Return the content of a file that `sealed` made.

    Args:
        path: the file. kind: what its entry "kind" says; "schema" is 1. shape: of the other entries.
        name: what errors call it. option: of a spec, that names it. fix: how to get one.

    Raises:
        UserInputError: if it is missing, not such a file, or changed since it was written.
    """
    where = str(path)
    try:
        record = parse_json(read_text(path), where=where)
    except FileNotFoundError:
        raise UserInputError(f"{name} not found", where=where, fix=f"check ?{option}=") from None
    except UserInputError:
        raise
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {name}: {str(error)[:80]}", where=where) from None
    if not isinstance(record, dict) or record.get("kind") != kind or record.get("schema") != 1:
        raise UserInputError(f"not a {name}", where=where, fix=fix)
    stated = record.pop("sha256", "")
    if stated != _hash(record):
        raise UserInputError(f"{name} changed since it was written (its hash differs)", where=where, fix=fix)
    if fault := misfit(record, shape):
        raise UserInputError(f"{name} is damaged: {fault}", where=where, fix=fix)
    return {**record, "sha256": stated}


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
