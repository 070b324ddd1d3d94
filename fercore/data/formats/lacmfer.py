"""`lacmfer`: the image lists of the LA-CMFER release, lines "../datasets/CK+/anger/S010_004_00000017.png 5".

The path is the folder of the lists; `domain=` names one: jaffe, raf, ck, oulu, fer2013 or aff. NAME.txt or
NAME_train.txt is the training part and NAME_test.txt the test part; a domain with one list has no parts. Listed paths
start beside the lists' folder, or in `root=` (which holds datasets/, or is it). Labels are those of the release,
0 surprise to 6 neutral. `duplicates=drop` (the default) takes a path that is listed more than once only once,
`duplicates=keep` every time. `overlap=drop` (the default) leaves training lines out that are test lines too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from fercore.data.formats.reading.codes import Labels, labels_of
from fercore.data.formats.reading.lines import Line, list_lines
from fercore.data.formats.reading.scan import Rows, Scan, existing, not_empty, safe_path
from fercore.data.images.readers import FileReader
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

NAMES = {"jaffe": "JAFFE", "raf": "RAF", "ck": "CK", "oulu": "Oulu", "fer2013": "FER2013", "aff": "Aff"}
SUBJECTS = {
    "jaffe": re.compile(r"(?:^|/)([A-Z]{2})\.[A-Z]{2}[0-9]*\.[^/]*$"),
    "ck": re.compile(r"(?:^|/)(S[0-9]+)_[0-9]+_[^/]*$"),
    "oulu": re.compile(r"/(P[0-9]+)/[^/]+/[^/]*$"),
}
"""Domain -> where a path tells the subject."""


def scan(spec: DomainSpec) -> Scan:
    """Read one domain's lists.

    Raises:
        UserInputError: for a missing folder, list or option `domain`, or a line (by number) that is not "path label".
    """
    folder = existing(spec.path, folder=True, where=spec.where)
    if "domain" not in spec.options:
        raise UserInputError("option domain is missing", where=spec.where, fix=f"add ?domain= {', '.join(NAMES)}")
    name = NAMES[spec.choice("domain", tuple(NAMES), "")]
    base = folder.parent
    if "root" in spec.options:
        base = existing(spec.options["root"], folder=True, where=spec.where)
    train, test = _lists(folder, name)
    rows, labels = Rows(), labels_of(spec, "lacmfer")
    train_lines, test_lines = (
        list(read_lines(path, spec, labels, rows)) if path is not None else [] for path in (train, test)
    )
    known = {line.path for line in test_lines} if spec.choice("overlap", ("drop", "keep"), "drop") == "drop" else set()
    keep_copies = spec.choice("duplicates", ("drop", "keep"), "drop") == "keep"
    split = "train" if test is not None else ""
    for lines, part, beside in ((train_lines, split, known), (test_lines, "test", set())):
        _add(rows, lines, labels, part, beside, base, SUBJECTS.get(name.lower()), copies=keep_copies)
    labels.refuse_guess(rows, str(train))
    not_empty(rows, str(train), "give ?root=FOLDER that holds datasets/")
    return Scan(rows, FileReader(tuple(rows.keys)))


def read_lines(path: Path, spec: DomainSpec, labels: Labels, rows: Rows) -> Iterator[Line]:
    """Yield the lines of a list, paths without the leading "../"; backslashes count as separators.

    Raises:
        UserInputError: as `list_lines`, or for a line without a label.
    """
    for line in list_lines(path, spec, labels, rows):
        if not line.native:
            raise UserInputError(f"line {line.path[:40]!r} without a label", where=line.where, fix='write "path label"')
        clean = line.path.strip().replace("\\", "/")
        # The release's lists start from its code folder; the images are looked for beside the lists.
        while clean.startswith(("../", "./")):
            clean = clean.partition("/")[2]
        yield replace(line, path=clean)


def _lists(folder: Path, name: str) -> tuple[Path, Path | None]:
    train = next((folder / n for n in (f"{name}_train.txt", f"{name}.txt") if (folder / n).is_file()), None)
    if train is None:
        what = f"no list {name}.txt or {name}_train.txt"
        raise UserInputError(what, where=str(folder), fix="give the release's folder data/")
    test = folder / f"{name}_test.txt"
    return train, test if test.is_file() else None


def _add(
    rows: Rows, lines: Sequence[Line], labels: Labels, split: str, beside: set[str], base: Path,
    subject: re.Pattern[str] | None, *, copies: bool,
) -> None:  # fmt: skip
    seen: set[str] = set()
    inner = base.name.lower() == "datasets"
    for line in lines:
        label = labels.find(line.native, rows)
        if label is None:
            continue
        if line.path in beside:
            rows.skipped["training line that is a test line"] += 1
        elif line.path in seen and not copies:
            rows.skipped["line listed before"] += 1
        else:
            seen.add(line.path)
            match = subject.search(line.path) if subject else None
            # `root=` may be datasets/ itself, which the listed paths begin with.
            path = line.path.partition("/")[2] if inner and line.path.startswith("datasets/") else line.path
            file = safe_path(path, base, trusted=None, where=line.where)
            rows.add_file(file, label, split=split, subject=match[1] if match else "")
