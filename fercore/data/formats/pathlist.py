"""`list`: a text file with one "path label" a line, or one path where the label is unknown; see `formats/lines.py`.

A label is an expression's name or alias, or a number of the coding named by `labels=` ; without it numbers are refused,
since each dataset has an order of its own. Paths start from the list's own folder or from `root=`; a path that leads
elsewhere is refused unless `root=` is given, and then looked for below it by its end as well (a list of another
machine).
"""

from __future__ import annotations

from fercore.data.formats.reading.codes import labels_of
from fercore.data.formats.reading.lines import list_lines
from fercore.data.formats.reading.listing import listing
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty
from fercore.data.images.readers import FileReader
from fercore.data.spec import DomainSpec


def scan(spec: DomainSpec) -> Scan:
    """Read a list of paths, labelled or not.

    Raises:
        UserInputError: for a missing file, a path that leads out of the folder, numbers without `labels=`, or
            several columns that might be the label.
    """
    path = existing(spec.path, folder=False, where=spec.where)
    labels = labels_of(spec)
    files = listing(spec, path.parent)
    rows = Rows()
    for line in list_lines(path, spec, labels, rows):
        label = labels.find(line.native, rows)
        file = files.file(line.path, line.where)
        if label is not None:
            rows.add_file(file, label)
    rows.by_end = files.by_end()
    labels.refuse_guess(rows, str(path))
    not_empty(rows, str(path), 'write lines "path label", and see ?labels= and ?root=')
    return Scan(rows, FileReader(tuple(rows.keys)))
