"""What a format finds in a dataset, before classes are chosen and images are checked."""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fercore import files
from fercore.data.images.readers import Reader
from fercore.data.labels import unknown_names
from fercore.errors import UserInputError

NO_IMAGE = "no image: "
"""What the reasons of `Rows.leave_file` begin with."""


ENCODED = re.compile("%[0-9A-Fa-f]{2}")


@dataclass
class Rows:
    """Columns of a dataset while a format collects them, one entry a usable sample.

    Attributes:
        keys: file path, or "file.csv#row".
        labels: canonical label, -1 = unlabelled.
        subjects, sequences: "" = unknown.
        split: "train", "val", "test" or "".
        unknown: name of a label outside the map -> samples dropped for it.
        missing: files that are listed but absent.
        skipped: reason -> samples the dataset's own protocol leaves out.
        numbers: number that stands for a label -> samples that have it.
        unread: names of columns that are not read, of a table that somebody wrote for us.
        by_end: "PATH as FILE" of listed paths that lead to no file and are taken for one that ends like them.
    """

    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    numbers: Counter[int] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    by_end: list[str] = field(default_factory=list)
    _first: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, label: int, *, split: str = "", subject: str = "", sequence: str = "") -> None:
        """Append one sample."""
        self.keys.append(key)
        self.labels.append(label)
        self.split.append(split)
        self.subjects.append(subject)
        self.sequences.append(sequence)

    def add_file(self, path: str, label: int, *, split: str = "", subject: str = "", sequence: str = "") -> None:
        """Append one image file, or count why not (`has_file`)."""
        if self.has_file(path):
            self.add(path, label, split=split, subject=subject, sequence=sequence)

    def has_file(self, path: str) -> bool:
        """Return whether a listed file is there; one that is not counts as missing, a pipe or folder as left out."""
        if os.path.isfile(path):
            return True
        if kind := files.irregular(path):
            self.leave_file(path, kind)
        else:
            self.missing.append(path)
        return False

    def leave_file(self, path: str, why: str) -> None:
        """Count a file that stands among images and is none; the first of a kind is named."""
        # One line a kind of file, however many there are: the name of the first stays in the text.
        self.skipped[f"{NO_IMAGE}{why}, first {self._first.setdefault(why, path)}"] += 1

    def keep(self, at: Sequence[int]) -> None:
        """Keep the samples at some positions, in that order."""
        self.keys, self.labels = [self.keys[i] for i in at], [self.labels[i] for i in at]
        self.subjects, self.sequences = [self.subjects[i] for i in at], [self.sequences[i] for i in at]
        self.split = [self.split[i] for i in at]


@dataclass(frozen=True)
class Scan:
    """A dataset as a format found it.

    Attributes:
        rows: its columns.
        reader: its pixels, row by row.
        extras: name -> array[n,...].
        resolved: for generated data, the options that decide the pixels beside the row; "" = they are in files.
        layout: options that the layout found leaves no choice of -> what they come to.
    """

    rows: Rows
    reader: Reader
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    resolved: str = ""
    layout: Mapping[str, str] = field(default_factory=dict)


def user_path(text: str) -> Path:
    """Return a path with a leading ~ replaced by the home folder."""
    return Path(os.path.expanduser(text))


def present(path: str, *, where: str) -> Path:
    """Return a path that exists.

    Raises:
        UserInputError: if it does not.
    """
    location = user_path(path)
    try:
        exists = location.exists()
    # exists() raises for a path that is too long.
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot open {path!r}: {error}", where=where) from None
    if not exists:
        decoded = "; in it % before two hex digits is decoded: write %25 for %" if ENCODED.search(where) else ""
        raise UserInputError(f"path not found: {path}", where=where, fix=f"check the spec{decoded}")
    return location


def existing(path: str, *, folder: bool, where: str) -> Path:
    """Return a path that exists and is a folder, or a file.

    Raises:
        UserInputError: if it does not exist or is the other kind.
    """
    location = present(path, where=where)
    if location.is_dir() != folder:
        kind = "folder" if folder else "file"
        fix = f"give the path of a {kind}" + (" (unpack the archive first)" if _is_archive(path) else "")
        raise UserInputError(f"not a {kind}: {path}", where=where, fix=fix)
    if not folder and (kind := files.irregular(location)):
        raise UserInputError(f"{kind}, not a file: {path}", where=where, fix="give the path of a file")
    return location


def _is_archive(path: str) -> bool:
    return path.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar"))


MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""First bytes of texts that say their encoding; of two that begin alike the longer one first."""

BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")


def read_text(path: Path) -> str:
    r"""Return the contents of a text file, every end of a line as "\n".

    It is UTF-8, or what its byte order mark says (spreadsheets write UTF-16). Of other encodings nothing says which one
    it is, and file names read by the wrong one are names of no file.

    Raises:
        UserInputError: if it cannot be read as text; names the line, and shows it as Windows-1252 has it.
    """
    try:
        raw = files.read_bytes(path)
    except OSError as error:
        raise UserInputError(f"cannot read: {error.strerror or error}", where=str(path)) from None
    encoding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise _undecoded(raw, error, path) from None
    # UTF-16 without its mark decodes as UTF-8 where letters are ASCII: every second byte is NUL.
    if "\0" in text:
        fix = "if it is UTF-16, save it with its byte order mark, or as UTF-8"
        raise UserInputError("not a text file: it holds NUL characters", where=str(path), fix=fix)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _undecoded(raw: bytes, error: UnicodeDecodeError, path: Path) -> UserInputError:
    before = raw[: error.start].decode(error.encoding, "ignore")
    what, fix = f"not {error.encoding.upper()} text: byte 0x{raw[error.start]:02x}", "save it as UTF-8"
    if error.encoding == "utf-8" and not BINARY.search(raw):
        # The whole line as Windows-1252 has it: the user sees whether that guess reads right.
        line = raw[raw.rfind(b"\n", 0, error.start) + 1 :].splitlines()[0]
        what += f", where Windows-1252 reads {line.decode('cp1252', 'replace')[:60]!r}"
        fix += ", as `iconv -f CP1252 -t UTF-8` does if that is right"
    return UserInputError(what, where=f"{path}, line {before.count(chr(10)) + 1}", fix=fix)


def safe_path(text: str, base: Path, *, trusted: bool | None, where: str) -> str:
    r"""Return a listed path under `base`; backslashes count as separators.

    A list is data from elsewhere: an absolute path, or one that leaves its folder by "..", is refused unless the
    user has said `root=`, which states both where the images are and that the list is trusted.

    Args:
        text: as listed. base: folder it starts from. trusted: None = the format has no lists that may be trusted.
        where: of the line.

    Raises:
        UserInputError: for a path that leaves `base` while not trusted, or an empty one.
    """
    path = text.strip().replace("\\", "/")
    if not path or "\0" in path:
        raise UserInputError("empty path", where=where)
    # "C:/x" is absolute on Windows, and joins like a relative path elsewhere.
    drive = len(path) > 1 and path[1] == ":" and path[0].isalpha()
    # As text, before the file system is asked: the file need not exist, and links are checked with the images.
    if (drive or path.startswith("/") or ".." in path.split("/")) and not trusted:
        fix = "add ?root=FOLDER with the images' folder, which says that you trust the list"
        if trusted is None:
            fix = f"write it from {base} on"
        raise UserInputError(f"path {path!r} leads out of the dataset's folder", where=where, fix=fix)
    return path if drive else str(base / path)


def not_empty(rows: Rows, where: str, fix: str) -> None:
    """Refuse a dataset without a single sample.

    Raises:
        UserInputError: naming what was dropped, if anything was.
    """
    if rows.keys:
        return
    why = ""
    if rows.unknown:
        why = f": labels that are no expressions: {unknown_names(rows.unknown)}"
    elif rows.missing:
        why = f": {len(rows.missing)} listed files are missing, the first is {rows.missing[0]}"
    raise UserInputError(f"no usable sample{why}", where=where, fix=fix)


def listed(names: Sequence[str] | Counter[str], most: int = 5) -> str:
    """Return names in quotes, the first few of them."""
    all_names = list(names)
    text = ", ".join(repr(name) for name in all_names[:most])
    return text + (f" and {len(all_names) - most} more" if len(all_names) > most else "")
