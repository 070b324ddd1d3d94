"""Opening one domain: read its format, keep the part its spec names, look at every image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fercore.config import DataSettings
from fercore.data.cache.files import cache_folder, make_room
from fercore.data.domains.options import apply_options
from fercore.data.domains.parts import choose_split, limited, training_part, unused_parts
from fercore.data.fingerprint import part_fingerprint, units_fingerprint
from fercore.data.formats.reading.codes import fits
from fercore.data.formats.reading.scan import Scan, present
from fercore.data.images.links import refuse_links_out
from fercore.data.images.preflight import Preflight, inspect
from fercore.data.images.readers import ImageFiles, kind_of
from fercore.data.images.scaling import NO_RANGE, Scaling, parse_scaling
from fercore.data.labels import unknown_names
from fercore.data.spec import FORMATS, DomainSpec, TaskSpec
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.records.data import DomainReport, ScalingReport
from fercore.terminal import counted

UNLABELLED = "unlabelled"
"""Why samples of a source that have no label are left out, in report["sources"][i]["skipped"]."""


@dataclass
class LoadedDomain:
    """A domain that has been read and checked; labels are canonical."""

    spec: DomainSpec
    table: Table
    preflight: Preflight
    report: DomainReport
    resolved: str = ""

    @property
    def labelled(self) -> bool:
        """Return whether any sample has a label."""
        return bool((self.table.labels >= 0).any())

    @cached_property
    def content(self) -> dict[int, str]:
        """Row of the reader -> hash of its content."""
        return dict(zip(self.table.rows.tolist(), self.preflight.digests, strict=True))

    def fingerprint(self, part: Table) -> dict[str, Any]:
        """Return the fingerprint of a part of this domain."""
        images = part_fingerprint(part, self.content, self.resolved)
        units = units_fingerprint(part)
        return {**images, "au": units} if units else images


def look_for_data(task: TaskSpec) -> None:
    """Make sure that every source and the target are there, before anything that takes long.

    Raises:
        UserInputError: for a path where nothing is.
    """
    for spec in task.specs:
        if not spec.generated:
            present(spec.path, where=spec.where)


def read_domain(spec: DomainSpec) -> tuple[Table, Scan]:
    """Return all samples of a dataset, labels canonical, and what its format says of the rest.

    Raises:
        UserInputError: as the format's `scan`, for a link that leads out, or an option that does not fit the data.
    """
    scaling = parse_scaling(spec)
    scan: Scan = import_module(FORMATS[spec.format].module).scan(spec)
    refuse_links_out(spec, scan.reader)
    if scaling is not None:
        scan = _with_scaling(scan, scaling, spec)
    rows, n = scan.rows, len(scan.rows.keys)
    stem = PurePath(spec.path.replace("\\", "/")).stem or spec.format
    table = Table(
        name=spec.options.get("name", stem),
        spec=spec.text,
        keys=tuple(rows.keys),
        labels=np.array(rows.labels, dtype=np.int64),
        subjects=tuple(rows.subjects),
        sequences=tuple(rows.sequences),
        split=tuple(rows.split),
        reader=scan.reader,
        rows=np.arange(n),
        domain=np.zeros(n, dtype=np.int64),
        extras=scan.extras,
        au=spec.options.get("au", ""),
    )
    return apply_options(table, spec, rows.skipped), scan


def _with_scaling(scan: Scan, scaling: Scaling, spec: DomainSpec) -> Scan:
    """Return the scan with a reader that scales one-channel images."""
    reader = scan.reader
    if not isinstance(reader, ImageFiles):
        fix = "remove it: it is for image files of one channel"
        raise UserInputError(
            f"option range on {spec.format}, whose pixels are no image files", where=spec.where, fix=fix
        )
    return replace(scan, reader=replace(reader, scaling=scaling), resolved=f"{scan.resolved}range {scaling}")


def read_chosen(spec: DomainSpec) -> tuple[Table, Scan]:
    """Return the samples that a spec's `split` and `limit` leave, outside a run; as `read_domain` without them.

    Raises:
        UserInputError: as `read_domain`, or if there is no such part.
    """
    whole, scan = read_domain(spec)
    table = choose_split(whole, spec)
    return (_limit_parts(table, spec, spec_seed(spec, 0)) if "limit" in spec.options else table), scan


def spec_seed(spec: DomainSpec, seed: int) -> int:
    """Return the seed of a spec's drawings: its own, or the run's; of generated data the run's always."""
    return seed if spec.generated else spec.integer("seed", seed)


def load_domain(spec: DomainSpec, settings: DataSettings, seed: int, *, target: bool = False) -> LoadedDomain:
    """Read and check a source or the target.

    Args:
        spec: the dataset. settings: cache, and the share of unusable images that is let pass.
        seed: of `limit`, where the spec has no seed of its own. target: whether samples without a label may stay.

    Raises:
        UserInputError: for whatever is wrong with it.
    """
    whole, scan = read_domain(spec)
    table = choose_split(whole, spec)
    unused: dict[str, int] = {}
    if not target:
        training = training_part(table, spec, scan.rows.skipped)
        unused = unused_parts(table, spec, np.flatnonzero(np.isin(table.rows, training.rows)))
        table = limited(_with_labels(training, spec, scan), spec, spec_seed(spec, seed))
    elif "limit" in spec.options:
        table = _limit_parts(table, spec, spec_seed(spec, seed))
    preflight = inspect(table, _memory(settings))
    table = _bound(table, preflight)
    report: DomainReport = {
        "spec": spec.text,
        "name": table.name,
        "format": spec.format,
        "found": len(whole),
        "classes": {},
        "dropped_classes": {},
        "unknown_labels": dict(scan.rows.unknown),
        "missing_files": len(scan.rows.missing),
        "first_missing": scan.rows.missing[:5],
        "skipped": dict(scan.rows.skipped),
        "unread_columns": list(scan.rows.unread),
        "found_by_end": len(scan.rows.by_end),
        "first_by_end": scan.rows.by_end[:1],
        "unused_parts": unused,
        "preflight": preflight.report(),
    }
    _refuse_without_range(preflight)
    _refuse_if_bad(spec, scan, preflight, settings.max_bad_share)
    if "range" in spec.options:
        report["scaling"] = _scaling_report(spec, table, preflight)
    return LoadedDomain(spec, table, preflight, report, scan.resolved)


def _memory(settings: DataSettings) -> Path | None:
    """Return the folder where the preflight remembers what it found; a cache in memory does without if there is none.

    Raises:
        UserInputError: if a cache on disk is asked for and cannot be.
    """
    try:
        folder = cache_folder(settings.cache_dir)
    except UserInputError:
        if settings.cache == "disk":
            raise
        return None
    if settings.cache == "memory":  # images on disk make room for themselves
        make_room(folder, set(), settings.cache_disk_mb * 2**20)
    return folder


def _bound(table: Table, preflight: Preflight) -> Table:
    """Return the table with a reader that reads what the preflight saw and nothing else."""
    if not isinstance(table.reader, ImageFiles):
        return table
    digests = [""] * len(table.reader)
    for row, digest in zip(table.rows.tolist(), preflight.digests, strict=True):
        digests[row] = digest
    return replace(table, reader=replace(table.reader, digests=tuple(digests)))


def _with_labels(table: Table, spec: DomainSpec, scan: Scan) -> Table:
    """Return the labelled samples of a source; the others are counted."""
    labelled = np.flatnonzero(table.labels >= 0)
    if not len(labelled):
        fix = "a source needs class folders or a label column; without labels it can be a target"
        raise UserInputError("source without a labelled image", where=spec.where, fix=fix)
    if len(labelled) < len(table):
        scan.rows.skipped[UNLABELLED] += len(table) - len(labelled)
    return table.subset(labelled)


def _limit_parts(table: Table, spec: DomainSpec, seed: int) -> Table:
    """Return a target with at most `limit` samples in each of its parts."""
    parts = np.array(table.split, dtype=object) if "split" not in spec.options else np.full(len(table), "")
    kept = [limited(table.subset(np.flatnonzero(parts == part)), spec, seed) for part in sorted(set(parts.tolist()))]
    rows = np.sort(np.concatenate([part.rows for part in kept]))
    return table.subset(np.searchsorted(table.rows, rows))


def _refuse_without_range(preflight: Preflight) -> None:
    """Refuse deep one-channel images without a range, however few: what they show would be a guess."""
    key = next((key for key, reason in preflight.unusable if reason == NO_RANGE), None)
    if key is not None:
        fix = "add ?range=LO,HI (values that become black and white) or ?range=image to the spec"
        raise UserInputError(NO_RANGE, where=key, fix=fix)


def _scaling_report(spec: DomainSpec, table: Table, preflight: Preflight) -> ScalingReport:
    """Return {"range", "one_channel": images it scales, "deep": those of more than 8 bits, "colour": those it leaves}.

    Raises:
        UserInputError: if it scales none.
    """
    assert isinstance(table.reader, ImageFiles)
    paths = (table.reader.paths[row] for row in table.rows[preflight.usable].tolist())
    kinds = Counter(kind_of(path) for path in paths)
    if not kinds["one_channel"] + kinds["deep"]:
        fix = "remove it; grey that is stored as red, green and blue is 8 bits already"
        raise UserInputError("option range on a dataset without a one-channel image", where=spec.where, fix=fix)
    deep, shallow = kinds["deep"], kinds["one_channel"]
    return {"range": str(table.reader.scaling), "one_channel": shallow + deep, "deep": deep, "colour": kinds["colour"]}


def _refuse_if_bad(spec: DomainSpec, scan: Scan, preflight: Preflight, most: float) -> None:
    unknown, missing = scan.rows.unknown, scan.rows.missing
    bad = sum(unknown.values()) + len(missing) + len(preflight.unusable)
    total = preflight.n + sum(unknown.values()) + len(missing)
    if bad <= most * total:
        return
    kinds = []
    if preflight.unusable:
        key, reason = preflight.unusable[0]
        kinds.append(f"{counted(len(preflight.unusable), 'unusable image')}, first {key}: {reason}")
    if missing:
        kinds.append(f"{counted(len(missing), 'missing file')}, first {missing[0]}")
    if unknown:
        kinds.append(f"{sum(unknown.values())} with labels nobody knows: {unknown_names(unknown)}")
    fix = "remove or fix them, or raise data.max_bad_share"
    if unknown and "names" in FORMATS[spec.format].options:
        fix = "remove, fix or rename them (?names=FILE.toml says what names mean), or raise data.max_bad_share"
    if unknown and (fitting := fits(scan.rows.numbers)):
        fix = f"all numbers fit ?labels= {'; '.join(fitting)}; else {fix}"
    what = (
        f"{bad} of {counted(total, 'sample')} are bad ({bad / total:.1%}, at most {most:.1%} are let pass): "
        + "; ".join(kinds)
    )
    raise UserInputError(what, where=spec.where, fix=fix)
