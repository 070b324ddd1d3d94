"""A study's file: methods, pairs of domains and seeds, read strictly; a fault is told with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError, field_validator, model_validator

from fercore.config import Settings, Spec, merge
from fercore.documents import in_words, parse_toml
from fercore.errors import UserInputError, did_you_mean, reason_of
from fercore.experiments.cells import parse_entry
from fercore.experiments.search_file import Dimension, SearchFile
from fercore.files import no_file, read_text
from fercore.records.result import Score

STUDIES: Final = Path(__file__).parent / "studies"
"""Studies that come with fercore, as GROUP/NAME.toml."""
SOURCE_ROW: Final[Mapping[str, str]] = {"method": "source_only", "label": "source"}
"""The row of the source model, with `pretrain_source`."""
LABEL = re.compile(r"[^\x00-\x1f/\\]{1,80}")
HEADER = re.compile(r"^\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[\w-]+|"[^"\n]*"|'[^'\n]*'))*)\s*=""")


class Method(Settings):
    """A row of the table."""

    method: str = Field(min_length=1, description="METHOD[+ADDON...]")
    label: str = Field("", description="name of the row; the method itself if not given")
    settings: dict[str, Any] = Field(default_factory=dict, description="laid over the study's")
    start: str | None = Field(None, alias="from", description="label of the row whose model it starts from")

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.label or self.method


class Pair(Settings):
    """A column of the table: sources and a target, or a protocol."""

    name: str = Field(min_length=1)
    source: tuple[Spec, ...] = ()
    target: Spec | None = None
    protocol: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict, description="laid over the study's")

    @model_validator(mode="after")
    def _one_way(self) -> Pair:
        # A source that asks for labels is divided: what it leaves unlabelled is the target.
        divided = any(spec.asks_for_labels for spec in self.source)
        if (self.protocol is None) == (self.target is None and not divided):
            raise ValueError("give source and target, or a protocol")
        if self.protocol is not None and self.source:
            raise ValueError("source goes with target, not with protocol")
        return self


class StudyFile(Settings):
    """The keys of a study's file."""

    title: str = ""
    paper: str = Field("", description="key of a paper in the published tables, set beside the measured ones")
    preset: str | None = None
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    primary_metric: Score = "accuracy"
    reference: str = Field("", description="label of the row that differences are taken to; the first if not given")
    data_root: str | None = Field(None, description="folder that holds the datasets of protocols")
    pretrain_source: int | None = Field(
        None,
        ge=1,
        description="steps of a source model for each pair and seed: a row `source` that the others start from",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="of every run")
    methods: tuple[Method, ...] = Field(min_length=1)
    pairs: tuple[Pair, ...] = Field(min_length=1)
    search: SearchFile | None = Field(None, description="settings of one row that are tried")
    scales: dict[str, dict[str, Any]] = Field(default_factory=dict, description="scale -> keys laid over these")

    @model_validator(mode="before")
    @classmethod
    def _source_row(cls, values: Any) -> Any:
        """Add the row of the source model, last, so that the reference stays what it is; rows with a `from` keep it."""
        rows = values.get("methods") if isinstance(values, Mapping) else None
        if not isinstance(rows, list | tuple) or values.get("pretrain_source") is None:
            return values
        tables = [_row(row) if isinstance(row, str) else row for row in rows]
        # A study that was written down has the row already.
        if any(isinstance(row, Mapping) and row == SOURCE_ROW for row in map(_bare, tables)):
            return values
        started = [{"from": SOURCE_ROW["label"], **row} if isinstance(row, Mapping) else row for row in tables]
        return {**values, "methods": [*started, SOURCE_ROW]}

    @field_validator("methods", mode="before")
    @classmethod
    def _short_rows(cls, rows: Any) -> Any:
        return [_row(row) if isinstance(row, str) else row for row in rows] if isinstance(rows, list | tuple) else rows

    @model_validator(mode="after")
    def _names_fit(self) -> StudyFile:
        for kind, names in (("methods", [row.name for row in self.methods]), ("pairs", [p.name for p in self.pairs])):
            if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
                raise ValueError(f"two {kind} are called {twice!r}; give one of them a name of its own")
            if odd := next((name for name in names if not LABEL.fullmatch(name)), None):
                raise ValueError(f"{odd!r} cannot be a folder's name; leave slashes out, 80 characters are the most")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is given twice: {list(self.seeds)}")
        labels = [row.name for row in self.methods]
        for name in filter(None, [self.reference, *(row.start for row in self.methods)]):
            if name not in labels:
                raise ValueError(f"no method is called {name!r}; {did_you_mean(name, labels)}")
        if any(self._begins(row, set()) is None for row in self.methods):
            raise ValueError("methods that start from each other")
        return self

    @model_validator(mode="after")
    def _one_row_is_searched(self) -> StudyFile:
        if self.search is None:
            return self
        labels = [row.name for row in self.methods]
        if not self.search.method and len(self._last_rows()) != 1:
            raise ValueError("[search] has several methods to choose from; give search.method, the label of one")
        if self.search.method and self.search.method not in labels:
            raise ValueError(f"no method is called {self.search.method!r}; {did_you_mean(self.search.method, labels)}")
        wanted = {row.name for row in self.lineage(self.searched)}
        if idle := next((name for name in labels if name not in wanted), None):
            raise ValueError(f"{idle} takes no part in [search]; leave it out, or give it a study of its own")
        return self

    def _begins(self, row: Method, seen: set[str]) -> Method | None:
        """Return the row that a row's chain of `from` begins with; None if it comes back to itself."""
        if row.start is None:
            return row
        if row.name in seen:
            return None
        return self._begins(self.method(row.start), seen | {row.name})

    def method(self, label: str) -> Method:
        """Return a row by its label."""
        return next(row for row in self.methods if row.name == label)

    @property
    def searched(self) -> Method:
        """The row that [search] is about: the one it names, else the only one that no other starts from."""
        return self.method(self.search.method) if self.search and self.search.method else self._last_rows()[0]

    def _last_rows(self) -> list[Method]:
        """Return the rows that no other starts from."""
        starts = {row.start for row in self.methods}
        return [row for row in self.methods if row.name not in starts]

    def lineage(self, row: Method) -> list[Method]:
        """Return the rows that a row starts from, the first one first, and the row itself."""
        return [*([] if row.start is None else self.lineage(self.method(row.start))), row]

    @property
    def reference_label(self) -> str:
        """Label of the row that differences are taken to."""
        return self.reference or self.methods[0].name


def _bare(row: Any) -> Any:
    """Return a row without what is empty in it."""
    return {key: value for key, value in row.items() if value} if isinstance(row, Mapping) else row


def _row(text: str) -> dict[str, Any]:
    """Return "[LABEL:]plugin[+plugin...] [key=value ...]", as `fercore compare` takes it, as a table."""
    entry = parse_entry(text)
    return {"method": "+".join(entry.plugins), "label": entry.label, "settings": dict(entry.settings)}


def study_names() -> list[str]:
    """Return the names of the studies that come with fercore, sorted."""
    return sorted(path.relative_to(STUDIES).with_suffix("").as_posix() for path in STUDIES.glob("*/*.toml"))


def read_study(name: str, *, scale: str | None = None) -> StudyFile:
    """Return a study from a TOML file, or one that comes with fercore by its name.

    Args:
        name: path that ends in .toml, or a name. scale: keys under [scales.SCALE] are laid over the others.

    Raises:
        UserInputError: if there is none, or a key or value is wrong; names the line.
    """
    names = study_names()
    path = STUDIES / f"{name}.toml" if name in names else Path(name)
    if name not in names and path.suffix != ".toml":
        raise UserInputError(f"unknown study {name!r}", where="fercore study", fix=did_you_mean(name, names))
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise no_file(path, "study file", fix="give a .toml file, or the name of a study") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"cannot read study file: {reason_of(error)}", where=str(path)) from None
    try:
        tree = parse_toml(text, where=str(path))
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"not valid TOML: {error}", where=str(path)) from None
    study = check_study(tree, text, str(path))
    if scale is None:
        return study
    if scale not in study.scales:
        raise UserInputError(f"no scale {scale!r}", where=str(path), fix=did_you_mean(scale, study.scales))
    return check_study(merge(tree, study.scales[scale]), text, f"{path}, scale {scale}")


def check_study(tree: Mapping[str, Any], text: str, where: str) -> StudyFile:
    """Return the study that plain values describe.

    Args:
        tree: the values. text: the file they were read from, for its lines; "" = none. where: its path.

    Raises:
        UserInputError: for the first unknown key or wrong value.
    """
    try:
        return StudyFile.model_validate(dict(tree))
    except ValidationError as error:
        first = min(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    told = first.get("ctx", {}).get("error")
    loc = [part for part in first["loc"] if part != "from" or first["type"] != "extra_forbidden"]
    # Names of settings are dotted, and a file may have them in tables as well as in one word.
    place = [piece for part in loc for piece in (part.split(".") if isinstance(part, str) else [part])]
    line = line_of(text, place)
    where = f"{where}:{line}" if line else where
    if isinstance(told, UserInputError):
        raise UserInputError(told.what, where=where, fix=told.fix)
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        raise UserInputError(f"unknown key {key!r}", where=where, fix=did_you_mean(str(place[-1]), _known(place)))
    message = str(told) if told is not None else in_words(first["msg"])
    what, _, fix = message.partition("; ")
    raise UserInputError(f"{key}: {what}" if key else what, where=where, fix=fix)


def _known(place: Sequence[int | str]) -> list[str]:
    """Return the keys of the table that a place is in."""
    tables: dict[str, type[Settings]] = {"methods": Method, "pairs": Pair, "search": SearchFile}
    table = tables.get(str(place[0]), StudyFile) if len(place) > 1 else StudyFile
    table = Dimension if place[:2] == ["search", "space"] else table
    return [field.alias or name for name, field in table.model_fields.items()]


def line_of(text: str, place: Sequence[int | str]) -> int:
    """Return the line, from 1, of a TOML text that a key stands in, or of the nearest table around it; 0 if none."""
    best, line = 0, 0
    header: list[int | str] = []
    counts: dict[str, int] = {}
    for number, content in enumerate(text.splitlines(), start=1):
        if table := HEADER.match(content):
            parts = _parts(table[2])
            if table[1] == "[[":
                name = ".".join(parts)
                counts[name] = counts.get(name, -1) + 1
            header = _counted(parts, counts)
            path = header
        elif key := KEY.match(content):
            path = [*header, *_parts(key[1])]
        else:
            continue
        same = 0
        while same < min(len(path), len(place)) and path[same] == place[same]:
            same += 1
        # A key line must lie wholly on the way to the place; a deeper match is nearer.
        if (same == len(path) and same > best) or (same == len(place) and same > best):
            best, line = same, number
    return line


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'").strip() for part in dotted.split(".")]


def _counted(parts: Sequence[str], counts: Mapping[str, int]) -> list[int | str]:
    """Return a table's path with the numbers of the arrays of tables that it lies in."""
    path: list[int | str] = []
    for end in range(1, len(parts) + 1):
        path.append(parts[end - 1])
        if (name := ".".join(parts[:end])) in counts:
            path.append(counts[name])
    return path
