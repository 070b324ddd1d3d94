"""Why cells of a study failed, kept in its folder; several processes may note theirs at once."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock

from fercore.documents import Shape, misfit, parse_json
from fercore.errors import UserInputError, reason_of
from fercore.files import read_text
from fercore.writing import make_parents, write_json, writing

FAILURES = "failures.json"


class _Failures(Shape):
    """Cell -> why it failed."""

    reasons: dict[str, str]


def read_failures(out: Path) -> dict[str, str]:
    """Return cell -> why it failed, of a study's folder.

    Raises:
        UserInputError: if the record is damaged.
    """
    path = out / FAILURES
    try:
        values = parse_json(read_text(path), where=str(path))
    except FileNotFoundError:
        return {}
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserInputError(f"cannot read {FAILURES}: {reason_of(error)}", where=str(path), fix="delete it") from None
    if fault := misfit(values, _Failures):
        raise UserInputError(f"{FAILURES} is damaged: {fault}", where=str(path), fix="delete it")
    return _Failures.model_validate(values).reasons


def note_failure(out: Path, cell: str, reason: str | None) -> None:
    """Keep why a cell failed; None = it has not.

    Raises:
        UserInputError: if the record is damaged. WriteError: if it cannot be written.
    """
    path = out / FAILURES
    make_parents(path)
    with writing(path), FileLock(path.with_suffix(".lock")):
        before = read_failures(out)
        after = {name: why for name, why in before.items() if name != cell}
        if reason is not None:
            after[cell] = reason
        if after != before:
            write_json(path, {"reasons": after})
