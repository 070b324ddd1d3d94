"""Opening a run's domains: read, check, choose classes, keep target labels away from training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from fercore.config import DataSettings
from fercore.data.cache_files import cache_folder
from fercore.data.fingerprint import part_fingerprint, units_fingerprint
from fercore.data.formats import FORMATS
from fercore.data.formats.scan import Scan, listed
from fercore.data.labelled import LabelSplit, divide_labels, divided_source
from fercore.data.labels import CANONICAL, canonical_label
from fercore.data.links import refuse_links_out
from fercore.data.noise import permutation
from fercore.data.parts import choose_split, limited, target_parts, training_part
from fercore.data.preflight import Preflight, inspect
from fercore.data.reshape import reshape
from fercore.data.spec import DomainSpec, parse_spec
from fercore.data.table import Table
from fercore.errors import UserInputError

UNLABELLED = "unlabelled"
"""Why samples of a source that have no label are left out, in report["sources"][i]["left_out"]."""


@dataclass(frozen=True)
class DomainSet:
    """The data of a run.

    Attributes:
        classes: names of the run's classes; every label below is an index into them.
        sources: training part of each source, in the order of the settings.
        adaptation: what training may see of the target: no label, opaque keys, order shuffled.
        test: the target's test part, for the evaluator alone; labels where they are known, else -1.
        transductive: whether `adaptation` and `test` are the same images.
        report: what was read, dropped and found; JSON values. `mismatch_lines` puts it in words.
        truth: int64[n] labels of `adaptation` where they are known, else -1; for the evaluator alone.
        au_names: action units in the extras "au" and "au_code" of every part; empty without a provider.
        prints: part -> its fingerprint; see `fingerprint`.
        label_split: which samples are labelled, where one dataset was divided so; what the run folder keeps.
    """

    classes: tuple[str, ...]
    sources: tuple[Table, ...]
    adaptation: Table
    test: Table
    transductive: bool
    report: dict[str, Any]
    truth: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    au_names: tuple[str, ...] = ()
    prints: Mapping[str, Any] = field(default_factory=dict)
    label_split: Mapping[str, Any] | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this data from any other, as JSON values.

        {"classes": [...], "sources": [{"n": ..., "sha256": ...}, ...], "adaptation": {...}, "test": {...}}: equal for
        equal data, wherever it lies; different if a file's content, a label or the set of files is another.
        """
        return {"classes": list(self.classes), **deepcopy(dict(self.prints))}


@dataclass
class Opened:
    """A domain that has been read and checked; labels are canonical."""

    spec: DomainSpec
    table: Table
    preflight: Preflight
    report: dict[str, Any]
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
        found = part_fingerprint(part, self.content, self.resolved)
        units = units_fingerprint(part)
        return {**found, "au": units} if units else found


def open_domains(settings: DataSettings, *, seed: int, label_file: Path | None = None) -> DomainSet:
    """Read the domains that settings name, and decide classes and parts by the rules of the command line's SPEC.

    Args:
        settings: sources, target, classes, and the share of unusable images that is let pass.
        seed: of the half-and-half division, `labels` and `limit`, where a spec has no seed of its own.
        label_file: which samples are labelled, as the run that goes on keeps it.

    Raises:
        UserInputError: for whatever is wrong with a spec, a file or the set of classes. Nothing is written.
    """
    if not settings.sources:
        raise UserInputError("no source domain", where="data.sources", fix="give --source FORMAT:PATH")
    specs = [parse_spec(text) for text in settings.sources]
    target_spec = parse_spec(settings.target)
    divided = divided_source(specs, target_spec)
    same = divided is not None and divided.text == target_spec.text
    for spec in specs:
        if spec.flag("transductive"):
            fix = "only a target adapts; remove it"
            raise UserInputError("option transductive on a source", where=spec.where, fix=fix)
    target = _open(target_spec, settings, seed, target=True)
    if same and not target.labelled:
        raise UserInputError("source without a labelled image", where=target_spec.where, fix="a source needs labels")
    sources = [
        replace(target, spec=spec, report=deepcopy(target.report))
        if same and spec is divided
        else _open(spec, settings, seed)
        for spec in specs
    ]
    classes = _choose_classes(settings, sources, target)
    adaptation, test = _target(target, classes, _seed(target_spec, seed))
    label_split = None
    tables = []
    for opened in sources:
        if opened.spec is not divided:
            tables.append(_labelled(opened, classes))
            continue
        pool = adaptation if same else _labelled(opened, classes)
        label_split = _label_split(opened, pool, classes, seed=_seed(divided, seed), file=label_file)
        tables.append(pool.subset(label_split.labelled()))
        opened.report |= {"classes": tables[-1].counts(classes), "n": len(tables[-1])}
        if same:
            adaptation = pool.subset(label_split.unlabelled())
            target.report["n_adaptation"] = len(adaptation)
    parts = (tables, adaptation, test)
    tables, adaptation, test, au_names, au_report = _with_units(settings, classes, sources, target, *parts)
    shared = "shared by all domains" if target.labelled else "shared by the sources; the target has no labels"
    report = {
        "classes": list(classes),
        "class_rule": shared if settings.classes is None else "listed in data.classes",
        "sources": [source.report for source in sources],
        "target": target.report,
        "test_images_in_sources": _overlap(sources, tables, target, test),
        "au": au_report,
        "label_split": None if label_split is None else label_split.report(),
    }
    prints = {
        "sources": [source.fingerprint(table) for source, table in zip(sources, tables, strict=True)],
        "adaptation": target.fingerprint(adaptation),
        "test": target.fingerprint(test),
        **({"au": list(au_names)} if au_names else {}),
    }
    return DomainSet(
        classes,
        tuple(tables),
        adaptation.without_labels(),
        test,
        target_spec.flag("transductive"),
        report,
        truth=adaptation.labels,
        au_names=au_names,
        prints=prints,
        label_split=None if label_split is None else label_split.record,
    )


def _label_split(opened: Opened, pool: Table, classes: Sequence[str], *, seed: int, file: Path | None) -> LabelSplit:
    """Divide the training part of a domain; copies with different labels are not taken for labelled ones."""
    barred = frozenset(opened.table.rows[opened.preflight.conflicting].tolist())
    return divide_labels(pool, opened.content, classes, opened.spec, seed=seed, barred=barred, file=file)


def _with_units(
    settings: DataSettings,
    classes: Sequence[str],
    sources: Sequence[Opened],
    target: Opened,
    tables: Sequence[Table],
    adaptation: Table,
    test: Table,
) -> tuple[list[Table], Table, Table, tuple[str, ...], dict[str, Any] | None]:
    """Return the parts with action units beside their samples, where the settings ask for them."""
    from fercore.data.au.attach import Domain, add_units

    taught = [Domain(o.spec, o.table.name, {"train": t}) for o, t in zip(sources, tables, strict=True)]
    adapted = Domain(target.spec, target.table.name, {"adaptation": adaptation, "test": test}, fixed=("test",))
    names, report = add_units([*taught, adapted], settings)
    found = [domain.parts["train"] for domain in taught]
    for opened, table in zip(sources, found, strict=True):
        opened.report |= {"classes": table.counts(classes), "n": len(table)}
    target.report["n_adaptation"] = len(adapted.parts["adaptation"])
    return found, adapted.parts["adaptation"], adapted.parts["test"], names, report


def read_domain(spec: DomainSpec) -> tuple[Table, Scan]:
    """Return all samples of a dataset, labels canonical, and what its format says of the rest.

    Raises:
        UserInputError: as the format's `scan`, for a link that leads out, or an option that does not fit the data.
    """
    scan: Scan = import_module(f"fercore.data.formats.{FORMATS[spec.format].module}").scan(spec)
    refuse_links_out(spec, scan.reader)
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
    )
    return reshape(table, spec, rows.left_out), scan


def read_chosen(spec: DomainSpec) -> tuple[Table, Scan]:
    """Return the samples that a spec's `split` and `limit` leave, outside a run; as `read_domain` without them.

    Raises:
        UserInputError: as `read_domain`, or if there is no such part.
    """
    whole, scan = read_domain(spec)
    table = choose_split(whole, spec)
    return (_limit_parts(table, spec, _seed(spec, 0)) if "limit" in spec.options else table), scan


def _seed(spec: DomainSpec, seed: int) -> int:
    return seed if spec.format == "synthfer" else spec.integer("seed", seed)


def _open(spec: DomainSpec, settings: DataSettings, seed: int, *, target: bool = False) -> Opened:
    whole, scan = read_domain(spec)
    table = choose_split(whole, spec)
    if not target:
        table = limited(_with_labels(training_part(table, spec), spec, scan), spec, _seed(spec, seed))
    elif "limit" in spec.options:
        table = _limit_parts(table, spec, _seed(spec, seed))
    preflight = inspect(table, cache_folder(settings.cache_dir) if settings.cache == "disk" else None)
    report = {
        "spec": spec.text,
        "name": table.name,
        "format": spec.format,
        "found": len(whole),
        "classes": {},
        "dropped_classes": {},
        "unknown_labels": dict(scan.rows.unknown),
        "missing_files": len(scan.rows.missing),
        "first_missing": scan.rows.missing[:5],
        "left_out": dict(scan.rows.left_out),
        "preflight": preflight.report(),
    }
    _refuse_if_bad(spec, scan, preflight, settings.max_bad_share)
    return Opened(spec, table, preflight, report, scan.resolved)


def _with_labels(table: Table, spec: DomainSpec, scan: Scan) -> Table:
    """Return the labelled samples of a source; the others are counted."""
    labelled = np.flatnonzero(table.labels >= 0)
    if not len(labelled):
        fix = "a source needs class folders or a label column; without labels it can be a target"
        raise UserInputError("source without a labelled image", where=spec.where, fix=fix)
    if len(labelled) < len(table):
        scan.rows.left_out[UNLABELLED] += len(table) - len(labelled)
    return table.subset(labelled)


def _limit_parts(table: Table, spec: DomainSpec, seed: int) -> Table:
    """Return a target with at most `limit` samples in each of its parts."""
    parts = np.array(table.split, dtype=object) if "split" not in spec.options else np.full(len(table), "")
    kept = [limited(table.subset(np.flatnonzero(parts == part)), spec, seed) for part in sorted(set(parts.tolist()))]
    rows = np.sort(np.concatenate([part.rows for part in kept]))
    return table.subset(np.searchsorted(table.rows, rows))


def _refuse_if_bad(spec: DomainSpec, scan: Scan, preflight: Preflight, most: float) -> None:
    unknown, missing = scan.rows.unknown, scan.rows.missing
    bad = sum(unknown.values()) + len(missing) + len(preflight.unusable)
    total = preflight.n + sum(unknown.values()) + len(missing)
    if bad <= most * total:
        return
    kinds = []
    if preflight.unusable:
        key, reason = preflight.unusable[0]
        kinds.append(f"{len(preflight.unusable)} unusable images, first {key}: {reason}")
    if missing:
        kinds.append(f"{len(missing)} missing files, first {missing[0]}")
    if unknown:
        kinds.append(f"{sum(unknown.values())} with labels outside the map: {listed(unknown)}")
    fix = "remove or mend them, or raise data.max_bad_share"
    what = f"{bad} of {total} samples are bad ({bad / total:.1%}, at most {most:.1%} are let pass): " + "; ".join(kinds)
    raise UserInputError(what, where=spec.where, fix=fix)


def _choose_classes(settings: DataSettings, sources: Sequence[Opened], target: Opened) -> tuple[str, ...]:
    if settings.classes is not None:
        return _listed_classes(settings.classes, [set(source.table.counts(CANONICAL)) for source in sources])
    # A target without labels has no say in the classes.
    voters = [opened for opened in (*sources, target) if opened.labelled]
    have = [set(opened.table.counts(CANONICAL)) for opened in voters]
    shared = set.intersection(*have)
    if len(shared) < 2:
        names = [f"{o.spec.text}: {', '.join(c for c in CANONICAL if c in h)}" for o, h in
                 zip(voters, have, strict=True)]  # fmt: skip
        what = "no class in common" if not shared else f"only one class in common ({next(iter(shared))})"
        raise UserInputError(what, where="; ".join(names), fix="check label names and codes (?labels=)")
    return tuple(name for name in CANONICAL if name in shared)


def _listed_classes(names: Sequence[str], sources: Sequence[set[str]]) -> tuple[str, ...]:
    labels = [canonical_label(name, where="data.classes") for name in names]
    classes = tuple(CANONICAL[label] for label in labels)
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise UserInputError("at least two different classes are needed", where="data.classes")
    unseen = [name for name in classes if not any(name in have for have in sources)]
    if unseen:
        raise UserInputError(f"no source has the class {unseen[0]!r}", where="data.classes", fix="leave it out")
    return classes


def _remapped(table: Table, classes: Sequence[str]) -> tuple[Table, np.ndarray]:
    """Return the table with labels of the run, and a mask of the samples whose known class is not in the run."""
    lookup = np.full(len(CANONICAL) + 1, -1, dtype=np.int64)
    for i, name in enumerate(classes):
        lookup[CANONICAL.index(name)] = i
    labels = lookup[table.labels]
    return table.with_labels(labels), (labels < 0) & (table.labels >= 0)


def _dropped(table: Table, outside: np.ndarray) -> dict[str, int]:
    return table.subset(np.flatnonzero(outside)).counts(CANONICAL)


def _labelled(opened: Opened, classes: Sequence[str]) -> Table:
    table, outside = _remapped(opened.table, classes)
    keep = np.zeros(len(table), dtype=bool)
    keep[opened.preflight.usable] = True
    # Of copies with different labels nobody knows which is right, so none of them teaches.
    keep[opened.preflight.conflicting] = False
    report = opened.report
    report["dropped_classes"] = _dropped(opened.table, outside)
    report["mislabelled_dropped"] = len(opened.preflight.conflicting)
    result = table.subset(np.flatnonzero(keep & ~outside))
    report["classes"], report["n"] = result.counts(classes), len(result)
    if not len(result):
        raise UserInputError("source without a usable image of the run's classes", where=opened.spec.where)
    return result


def _target(opened: Opened, classes: Sequence[str], seed: int) -> tuple[Table, Table]:
    """Return (adaptation part, still with the labels that are known, test part)."""
    table, report = opened.table.subset(opened.preflight.usable), opened.report
    digests = np.array([opened.preflight.digests[i] for i in opened.preflight.usable], dtype=object)
    train, test, rule = target_parts(table, opened.spec, seed)
    mapped, outside = _remapped(table, classes)
    removed = {"same_file": 0, "same_content": 0}
    if rule != "transductive":
        train, removed = _without_test_images(table, digests, train, test)
    filtered = int(outside[train].sum())
    report["dropped_classes"] = _dropped(table, outside)
    train, test = train[~outside[train]], test[~outside[test]]
    if not len(train) or not len(test):
        missing = "an unlabelled training image" if not len(train) else "a test image"
        raise UserInputError(f"target without {missing} of the run's classes", where=opened.spec.where)
    tested = mapped.subset(test)
    labelled = int((tested.labels >= 0).sum())
    report |= {
        "classes": tested.counts(classes),
        "n_adaptation": len(train),
        "n_test": len(test),
        "transductive": rule == "transductive",
        "division": rule,
        "adaptation_filtered_by_label": filtered,
        "removed_from_adaptation": removed,
        "labelled_test": labelled,
        "test_without_label": len(test) - labelled,
    }
    # Files come sorted by class folder: shuffled, a sample's place says nothing about its class.
    shuffled = train[permutation(len(train), "adaptation", len(train))]
    return mapped.subset(shuffled), tested


def _overlap(sources: Sequence[Opened], tables: Sequence[Table], target: Opened, test: Table) -> int:
    """Return how many source images that training sees with their labels are images of the target's test part."""
    tested = {target.content[row] for row in test.rows.tolist()}
    pairs = zip(sources, tables, strict=True)
    return sum(source.content[row] in tested for source, table in pairs for row in table.rows.tolist())


def _without_test_images(
    table: Table, digests: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the training positions whose file and content are not in the test part, and how many went."""
    keys, contents = {table.keys[i] for i in test}, {digests[i] for i in test}
    same_key = np.array([table.keys[i] in keys for i in train], dtype=bool)
    same_content = np.array([digests[i] in contents for i in train], dtype=bool) & ~same_key
    counts = {"same_file": int(same_key.sum()), "same_content": int(same_content.sum())}
    return train[~(same_key | same_content)], counts
