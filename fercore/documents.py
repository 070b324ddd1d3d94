"""TOML and JSON of other hands: read as plain values of a known shape and depth, or refused in one line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from fercore.errors import UserInputError

MOST_DEPTH = 32
"""Levels that settings and records may be nested; code goes through them by recursion."""


def parse_toml(text: str, *, where: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Raises:
        tomllib.TOMLDecodeError: if it is no TOML.
        UserInputError: if its values are nested too deep.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # a number of more digits than Python reads, a date that is none
        raise tomllib.TOMLDecodeError(str(error)) from None
    except RecursionError:
        raise _too_deep(where) from None
    refuse_deep(tree, where=where)
    return tree


def parse_json(text: str | bytes, *, where: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: if it is no JSON.
        UserInputError: if its values are nested too deep.
    """
    try:
        tree = json.loads(text)
    except RecursionError:
        raise _too_deep(where) from None
    refuse_deep(tree, where=where)
    return tree


def refuse_deep(tree: Any, *, where: str) -> None:
    """Make sure that plain values may be gone through by recursion.

    Raises:
        UserInputError: if they are nested deeper than `MOST_DEPTH`.
    """
    level = [tree]
    for _ in range(MOST_DEPTH):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return
    raise _too_deep(where)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _too_deep(where: str) -> UserInputError:
    return UserInputError("values are nested too deep", where=where, fix=f"{MOST_DEPTH} levels are the most")
