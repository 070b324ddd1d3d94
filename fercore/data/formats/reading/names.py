"""`names=FILE.toml`: what a dataset's own class names mean, one line `"Freude" = "happiness"` a name.

The right side is an expression or one of its aliases; "" leaves the samples of that name out. Names are compared
without regard to case and to how accents are encoded (macOS writes folder names decomposed). Numbers are names as well.
"""

from __future__ import annotations

import tomllib
import unicodedata
from pathlib import Path
from typing import Any

from fercore.data.formats.reading.scan import existing, read_text
from fercore.data.labels import canonical_label
from fercore.data.spec import DomainSpec
from fercore.documents import parse_toml
from fercore.errors import UserInputError

SET_ASIDE = -1
"""What a name comes to whose samples are left out."""

FIX = 'write one line `"Freude" = "happiness"` a name; "" leaves its samples out'


def name_key(text: str) -> str:
    """Return the spelling by which names are compared."""
    return unicodedata.normalize("NFC", text.strip().casefold())


def names_of(spec: DomainSpec) -> dict[str, int]:
    """Return key of a name (`name_key`) -> canonical label, as a spec's `names=` says; empty without the option.

    Raises:
        UserInputError: if the file is missing, no such table, or says what is no expression.
    """
    if "names" not in spec.options:
        return {}
    path = existing(spec.options["names"], folder=False, where=spec.where)
    try:
        table = parse_toml(read_text(path), where=str(path))
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"not valid TOML: {str(error)[:80]}", where=str(path), fix=FIX) from None
    if not table:
        raise UserInputError("no name in the file", where=str(path), fix=FIX)
    labels: dict[str, int] = {}
    for name, meaning in table.items():
        if name_key(name) in labels:
            raise UserInputError(f"name {name!r} stands there twice", where=str(path), fix="keep one")
        labels[name_key(name)] = _label(name, meaning, path)
    return labels


def _label(name: str, meaning: Any, path: Path) -> int:
    where = f"{path}, {name!r}"
    if not isinstance(meaning, str):
        raise UserInputError("the meaning of a name is no text", where=where, fix=FIX)
    return canonical_label(meaning, where=where) if meaning.strip() else SET_ASIDE
