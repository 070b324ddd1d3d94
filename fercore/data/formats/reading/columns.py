"""What the columns of a table hold, by their names and by what stands in them.

A column that is nearly a known one would be left unread without a word: 'emotion' beside no 'label' makes a dataset
without labels. It is refused where the known one is missing; beside that one it is a further column, and named.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence, Set

from fercore.data.formats.folder import part_of
from fercore.data.formats.reading.scan import listed
from fercore.data.images.codecs import IMAGE_SUFFIXES
from fercore.data.labels import find_label
from fercore.errors import UserInputError

MANIFEST = ("path", "label", "domain", "split", "subject", "sequence")

OTHER_NAMES: Mapping[str, frozenset[str]] = {
    "path": frozenset({"image", "img", "file", "filename", "filepath", "picture", "photo"}),
    "label": frozenset({"emotion", "emo", "expression", "expr", "class", "category"}),
    "domain": frozenset({"dataset", "database", "spectrum", "modality"}),
    "split": frozenset({"subset", "set", "usage", "partition", "train", "test"}),
    "subject": frozenset({"subj", "person", "participant", "identity", "actor", "patient"}),
    "sequence": frozenset({"seq", "video", "clip"}),
}
"""Column -> words in the names that other tables give it."""

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def meaning(name: str, known: Sequence[str] = MANIFEST) -> str:
    """Return the known column that a name means, by its last word that says one or nearly by its spelling; else ""."""
    said = {
        word: column for column in known for word in (column, *OTHER_NAMES.get(column, ())) if column in OTHER_NAMES
    }
    # The last word is the noun: "image_label" is a label, "label_image" an image.
    for word in reversed(WORD.findall(name)):
        key = word.lower()
        if column := said.get(key) or said.get(key.removesuffix("s")):
            return column
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.8)), "")


def refuse_nearly_known(
    header: Sequence[str], rows: Sequence[Sequence[str]], known: Sequence[str], *, where: str
) -> None:
    """Make sure that no column which is not read holds what a missing one should, and that none stands there twice.

    Args:
        header: names of the columns as they are written. rows: cells of some rows. known: lower-case names of columns
            that are read. where: the place of the header.

    Raises:
        UserInputError: naming such a column, and the known one.
    """
    lower = [name.lower() for name in header]
    if twice := [name for name in known if lower.count(name) > 1]:
        raise UserInputError(f"two columns {twice[0]!r}", where=where, fix="keep one")
    missing = [name for name in known if name not in lower]
    if "path" in missing and (image := next(filter(_is_image, header), "")):
        fix = "write the names of its columns above it, path,label and so on, or read it as `list:`"
        raise UserInputError(f"the first line names no column, but the image {image!r}", where=where, fix=fix)
    expressions = [name for name in header if find_label(name) is not None]
    if "label" in missing and len(expressions) > 1:
        what = f"columns named like expressions, {listed(expressions, len(expressions))}, and no column 'label'"
        raise UserInputError(what, where=where, fix="write the expression of each row in a column 'label'")
    lookalikes: dict[str, str] = {}
    for k, name in enumerate(header):
        if lower[k] not in known:
            like = meaning(name, known)
            # By name first, then by contents: a name may say nothing ("0", "col2").
            column = like if like in missing else _held({row[k] for row in rows}, missing)
            lookalikes |= {name: column} if column else {}
    if lookalikes:
        what = "; ".join(f"no column {column!r}, and {name!r} looks like it" for name, column in lookalikes.items())
        raise UserInputError(what, where=where, fix="give it that name, or remove what is meant otherwise")


def _held(cells: Set[str], missing: Sequence[str]) -> str:
    """Return the missing column in which all cells could stand, empty ones aside; "" for none."""
    tests = {
        "path": _is_image,
        "label": lambda cell: find_label(cell) is not None,
        "split": lambda cell: part_of(cell) is not None,
    }
    cells = cells - {""}
    return next((name for name in missing if cells and name in tests and all(map(tests[name], cells))), "")


def _is_image(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in IMAGE_SUFFIXES
