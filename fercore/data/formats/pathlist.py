"""`list`: a text file with one "path label" a line, or one path where the label is unknown.

A label is an expression's name or alias, or a number of the coding named by `labels=` ; without it
numbers are refused, since each dataset has an order of its own. Paths start
from the list's own folder or from `root=`; a path that leads elsewhere is refused unless `root=` is given, and then
looked for below it by its end as well (a list of another machine). Lines that
are empty or start with # are skipped. A line of one word, or one that ends like an image file, is a path without label.
"""

from __future__ import annotations

import os

from fercore.data.codecs import IMAGE_SUFFIXES
from fercore.data.formats.codes import labels_of
from fercore.data.formats.listing import listing
from fercore.data.formats.scan import Rows, Scan, existing, not_empty, read_text
from fercore.data.readers import FileReader
from fercore.data.spec import DomainSpec


def scan(spec: DomainSpec) -> Scan:
    """Read a list of paths, labelled or not.

    Raises:
        UserInputError: for a missing file, a path that leads out of the folder, or numbers without `labels=`.
    """
    path = existing(spec.path, folder=False, where=spec.where)
    labels = labels_of(spec)
    files = listing(spec, path.parent)
    rows = Rows()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, native = _parts(line)
        label = labels.find(native, rows)
        file = files.file(name, where)
        if label is not None:
            rows.add_file(file, label)
    labels.refuse_guess(rows, str(path))
    not_empty(rows, str(path), 'write lines "path label", and see ?labels= and ?root=')
    return Scan(rows, FileReader(tuple(rows.keys)))


def _parts(line: str) -> tuple[str, str]:
    """Return a line's path and label, the latter "" if there is none."""
    words = line.rsplit(None, 1)
    if len(words) == 1 or os.path.splitext(words[1])[1].lower() in IMAGE_SUFFIXES:
        return line.strip(), ""
    return words[0], words[1]
