"""Opening a run's domains: read, check, choose classes, keep target labels away from training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fercore.config import DataSettings
from fercore.data.domains.label_space import choose_classes, divided_target, images_of_test, labelled_part
from fercore.data.domains.labelled import LabelSplit, divide_labels
from fercore.data.domains.load import UNLABELLED, LoadedDomain, load_domain, read_chosen, read_domain, spec_seed
from fercore.data.domains.split import divide
from fercore.data.spec import TaskSpec
from fercore.data.table import Table, join
from fercore.errors import UserInputError
from fercore.records.data import DataReport, UnitsReport

__all__ = ["UNLABELLED", "DomainSet", "load_domains", "read_chosen", "read_domain"]


@dataclass(frozen=True)
class DomainSet:
    """The data of a run.

    Attributes:
        classes: names of the run's classes; every label below is an index into them.
        sources: training part of each source, in the order of the settings.
        adaptation: what training may see of the target: no label, opaque keys, order shuffled.
        test: the target's test part, for the evaluator alone; labels where they are known, else -1.
        task: what was asked for.
        report: what was read, dropped and found; JSON values. `mismatch_lines` puts it in words.
        truth: int64[n] labels of `adaptation` where they are known, else -1; for the evaluator alone.
        target: every usable image of the target, in the dataset's order and by name; for the evaluator alone.
        target_parts: what the run takes each of them for: "test", "labelled" (trained on with its label), "adaptation",
            or "unused".
        au_names: action units in the extras "au" and "au_code" of every part; empty without a provider.
        fingerprints: part -> its fingerprint; see `fingerprint`.
        validation: samples of the sources that training never sees, where `data.source_validation` holds some out.
        label_split: which samples are labelled, where one dataset was divided so; what the run folder keeps.
    """

    classes: tuple[str, ...]
    sources: tuple[Table, ...]
    adaptation: Table
    test: Table
    task: TaskSpec
    report: DataReport
    target: Table
    target_parts: tuple[str, ...]
    truth: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    au_names: tuple[str, ...] = ()
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    label_split: Mapping[str, Any] | None = None
    validation: Table | None = None

    @property
    def transductive(self) -> bool:
        """Whether `adaptation` and `test` are the same images."""
        return self.task.test.transductive

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this data from any other, as JSON values.

        {"classes": [...], "sources": [{"n": ..., "sha256": ...}, ...], "adaptation": {...}, "test": {...}}: equal for
        equal data, wherever it lies; different if a file's content, a label or the set of files is another.
        """
        return {"classes": list(self.classes), **deepcopy(dict(self.fingerprints))}


def load_domains(task: TaskSpec, settings: DataSettings, *, label_file: Path | None = None) -> DomainSet:
    """Read the domains of a task, and decide classes and parts by the rules of the command line's SPEC.

    Args:
        task: what trains, validates and tests. settings: cache, and the share of unusable images that is let pass.
        label_file: which samples are labelled, as the run that goes on keeps it.

    Raises:
        UserInputError: for whatever is wrong with a spec, a file or the set of classes. Nothing is written.
    """
    task.check()
    divided, own_domain, seed = task.divided, task.few_shot_domain, task.seed
    target = load_domain(task.target, settings, seed, target=True)
    if own_domain is not None and not target.labelled:
        few = task.target.asks_for_few
        what = "no labelled target sample" if few else "source without a labelled image"
        fix = f"{'a few' if few else 'its'} images need labels: class folders or a label column"
        raise UserInputError(what, where=task.target.where, fix=fix)
    sources = [
        replace(target, spec=spec, report=deepcopy(target.report))
        if number == own_domain
        else load_domain(spec, settings, seed)
        for number, spec in enumerate(task.sources)
    ]
    classes = choose_classes(task.classes, sources, target)
    adaptation, test = divided_target(target, classes, spec_seed(task.target, seed))
    label_split = None
    tables, validation = [], dict[int, Table]()
    shares = {spec.source: spec.share for spec in task.validation}
    for number, loaded in enumerate(sources):
        if divided is None or loaded.spec != divided:
            training = labelled_part(loaded, classes)
            if number in shares:
                training, validation[number] = _held_out(loaded, training, shares[number], seed)
                loaded.report |= {"n_validation": len(validation[number])}
            tables.append(training)
            continue
        same = divided == task.target
        pool = adaptation if same else labelled_part(loaded, classes)
        watched = test if same else None
        label_split = _label_split(loaded, pool, classes, spec_seed(divided, seed), watched, label_file)
        tables.append(pool.subset(label_split.labelled()))
        loaded.report |= {"classes": tables[-1].counts(classes), "n": len(tables[-1])}
        if same:
            adaptation = pool.subset(label_split.unlabelled())
            target.report["n_adaptation"] = len(adaptation)
    parts = (tables, validation, adaptation, test)
    tables, validation, adaptation, test, au_names, au_report = _with_units(settings, classes, sources, target, *parts)
    own = adaptation.subset([]) if own_domain is None else tables[own_domain]
    target.report["labelled"] = {"n": len(own), "per_class": own.counts(classes)}
    shared = "shared by all domains" if target.labelled else "shared by the sources; the target has no labels"
    if not sources:
        shared = "those of the target's labels; there is no source"
    report: DataReport = {
        "classes": list(classes),
        "class_rule": shared if task.classes is None else "listed in data.classes",
        "sources": [source.report for source in sources],
        "target": target.report,
        "test_images_in_sources": images_of_test(sources, tables, target, test),
        "au": au_report,
        "label_split": None if label_split is None else label_split.report(),
    }
    fingerprints = {
        "sources": [source.fingerprint(table) for source, table in zip(sources, tables, strict=True)],
        "adaptation": target.fingerprint(adaptation),
        "test": target.fingerprint(test),
        **({"au": list(au_names)} if au_names else {}),
    }
    if validation:
        fingerprints["validation"] = [sources[number].fingerprint(table) for number, table in validation.items()]
    whole = target.table.subset(target.preflight.usable)
    return DomainSet(
        classes,
        tuple(tables),
        adaptation.without_labels(),
        test,
        task,
        report,
        target=whole,
        target_parts=_target_parts(whole, test, own, adaptation),
        truth=adaptation.labels,
        au_names=au_names,
        fingerprints=fingerprints,
        label_split=None if label_split is None else label_split.record,
        validation=join(list(validation.values())) if validation else None,
    )


def _held_out(loaded: LoadedDomain, table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Return what of a source is trained on, and what is not: subjects where all are known, else class by class.

    Copies of a training image are not held out.

    Raises:
        UserInputError: as `divide`, or if nothing is left of one of the two.
    """
    by = "subject" if all(table.subjects) else "class"
    parts = divide(table, {"train": 1 - share, "val": share}, by=by, seed=spec_seed(loaded.spec, seed))
    training = table.subset([i for i, part in enumerate(parts) if part == "train"])
    seen = {loaded.content[row] for row in training.rows.tolist()}
    apart = [i for i, part in enumerate(parts) if part == "val" and loaded.content[int(table.rows[i])] not in seen]
    if not (len(training) and apart):
        fix = "raise or lower data.source_validation"
        raise UserInputError(
            "nothing is left of a source to hold out, or to train on", where=loaded.spec.where, fix=fix
        )
    return training, table.subset(apart)


def _target_parts(whole: Table, test: Table, labelled: Table, adaptation: Table) -> tuple[str, ...]:
    """Return what each sample of the target is taken for; one that is two things goes by the first."""
    part_of_row = dict.fromkeys(whole.rows.tolist(), "unused")
    for part, table in (("adaptation", adaptation), ("labelled", labelled), ("test", test)):
        part_of_row |= dict.fromkeys(table.rows.tolist(), part)
    return tuple(part_of_row.values())


def _label_split(
    loaded: LoadedDomain, pool: Table, classes: Sequence[str], seed: int, test: Table | None, file: Path | None
) -> LabelSplit:
    """Divide the training part of a domain; copies with different labels are not taken for labelled ones."""
    excluded = frozenset(loaded.table.rows[loaded.preflight.conflicting].tolist())
    content, spec = loaded.content, loaded.spec
    return divide_labels(pool, content, classes, spec, seed=seed, excluded=excluded, test=test, file=file)


def _with_units(
    settings: DataSettings,
    classes: Sequence[str],
    sources: Sequence[LoadedDomain],
    target: LoadedDomain,
    tables: Sequence[Table],
    validation: Mapping[int, Table],
    adaptation: Table,
    test: Table,
) -> tuple[list[Table], dict[int, Table], Table, Table, tuple[str, ...], UnitsReport | None]:
    """Return the parts with action units beside their samples, where the settings ask for them."""
    from fercore.au.attach import Domain, add_units

    held_out = [{"validation": validation[n]} if n in validation else {} for n in range(len(tables))]
    labelled = [
        Domain(o.spec, o.table.name, {"train": t, **v}) for o, t, v in zip(sources, tables, held_out, strict=True)
    ]
    adapted = Domain(target.spec, target.table.name, {"adaptation": adaptation, "test": test}, fixed=("test",))
    names, report = add_units([*labelled, adapted], settings)
    training = [domain.parts["train"] for domain in labelled]
    for loaded, table in zip(sources, training, strict=True):
        loaded.report |= {"classes": table.counts(classes), "n": len(table)}
    target.report["n_adaptation"] = len(adapted.parts["adaptation"])
    held = {number: labelled[number].parts["validation"] for number in validation}
    return training, held, adapted.parts["adaptation"], adapted.parts["test"], names, report
