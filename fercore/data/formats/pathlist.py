"""`list`: a text file with one "path label" a line.

A label is an expression's name or alias, or a number of the coding named by `labels=` (default: canonical). Paths start
from the list's own folder or from `root=`; a path that leads elsewhere is refused unless `root=` is given. Lines that
are empty or start with # are skipped.
"""

from __future__ import annotations

from fercore.data.formats.codes import CODES, find_code, set_aside
from fercore.data.formats.scan import Rows, Scan, existing, not_empty, read_text, root_folder, safe_path
from fercore.data.readers import FileReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError


def scan(spec: DomainSpec) -> Scan:
    """Read a list of labelled paths.

    Raises:
        UserInputError: for a missing file, a line without a label, or a path that leads out of the folder.
    """
    path = existing(spec.path, folder=False, where=spec.where)
    coding = spec.choice("labels", tuple(CODES), "canonical")
    base, trusted = root_folder(spec.options.get("root"), path.parent, spec.where)
    rows = Rows()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        words = line.rsplit(None, 1)
        if len(words) != 2:
            raise UserInputError("line without a label", where=where, fix='write "path label"')
        label = find_code(words[1], coding)
        if label is None:
            (rows.left_out if set_aside(words[1], coding) else rows.unknown)[words[1]] += 1
            continue
        rows.add_file(safe_path(words[0], base, trusted=trusted, where=where), label)
    not_empty(rows, str(path), 'write lines "path label", and see ?labels= and ?root=')
    return Scan(rows, FileReader(tuple(rows.keys)))
