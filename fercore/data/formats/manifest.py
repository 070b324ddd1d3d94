"""`manifest`: CSV with the columns path,label,domain,split,subject,sequence; all but `path` may be missing.

Further columns are named and not read; one that nearly has the name of a missing one of these, or holds what it should,
is an error. Labels are expression names or aliases, or numbers of the coding named by `labels=`; an empty label, nan or
-1 is unlabelled. Paths start from the CSV's folder or from `root=`; a path that leads elsewhere is refused unless
`root=` is given, and then looked for below it by its end as well (a list of another machine).
`domain=NAME` takes the rows of one domain.
"""

from __future__ import annotations

from fercore.data.formats.folder import PARTS, part_of
from fercore.data.formats.reading.codes import NO_LABEL, Labels, labels_of
from fercore.data.formats.reading.columns import MANIFEST
from fercore.data.formats.reading.listing import Listing, listing
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty
from fercore.data.formats.reading.tables import csv_rows
from fercore.data.images.readers import FileReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError, did_you_mean


def scan(spec: DomainSpec) -> Scan:
    """Read a manifest.

    Raises:
        UserInputError: for a missing file or column, a bad row (by line), an unknown split or domain, or
            numbers without `labels=`.
    """
    path = existing(spec.path, folder=False, where=spec.where)
    files = listing(spec, path.parent)
    wanted, labels = spec.options.get("domain"), labels_of(spec)
    rows = Rows()
    domains = set()
    for number, row in csv_rows(path, ["path"], MANIFEST, rows):
        domains.add(row.get("domain", ""))
        if wanted is None or row.get("domain") == wanted:
            add_row(rows, row, files, labels, where=f"{path}, line {number}")
    if wanted is not None and wanted not in domains:
        raise UserInputError(
            f"no domain {wanted!r} in the manifest", where=str(path), fix=did_you_mean(wanted, domains)
        )
    rows.by_end = files.by_end()
    labels.refuse_guess(rows, str(path))
    not_empty(rows, str(path), f"write rows {','.join(MANIFEST)}")
    return Scan(rows, FileReader(tuple(rows.keys)))


def add_row(rows: Rows, row: dict[str, str], files: Listing, labels: Labels, *, where: str) -> None:
    """Add the sample of one row, or count it as missing or of an unknown label.

    Raises:
        UserInputError: for an unknown split, or a path that leads out of the folder while not trusted.
    """
    split, subject, sequence = (_known(row.get(name, "")) for name in ("split", "subject", "sequence"))
    part = part_of(split)
    if split and part is None:
        raise UserInputError(f"unknown split {split!r}", where=where, fix=did_you_mean(split.lower(), PARTS))
    # Before the label: a path that leads out of the folder is refused even in a row that is not used.
    path = files.file(row["path"], where)
    label = labels.find(row.get("label", ""), rows)
    if label is None:
        return
    rows.add_file(path, label, split=part or "", subject=subject, sequence=sequence)


def _known(cell: str) -> str:
    """Return what a cell says; "" where it says, as pandas writes it, that nothing is known."""
    return "" if cell.lower() in NO_LABEL else cell
