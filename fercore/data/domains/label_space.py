"""Choosing a run's classes, and which samples of the loaded domains teach, adapt and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fercore.data.domains.load import LoadedDomain
from fercore.data.domains.parts import target_parts, unused_parts
from fercore.data.labels import CANONICAL, canonical_label
from fercore.data.noise import permutation
from fercore.data.table import Table
from fercore.errors import UserInputError


def choose_classes(
    listed: Sequence[str] | None, sources: Sequence[LoadedDomain], target: LoadedDomain
) -> tuple[str, ...]:
    """Return the classes that are listed, or those all domains with labels share.

    Raises:
        UserInputError: if fewer than two are shared, a listed one is unknown or in no source, or nothing has labels.
    """
    if listed is not None:
        return _listed_classes(listed, [set(source.table.counts(CANONICAL)) for source in sources])
    # A target without labels has no say in the classes.
    voters = [loaded for loaded in (*sources, target) if loaded.labelled]
    if not voters:
        fix = "name the classes of the model: --set 'data.classes=[\"anger\", ...]'"
        raise UserInputError("neither source nor label says which classes there are", where="data.classes", fix=fix)
    have = [set(loaded.table.counts(CANONICAL)) for loaded in voters]
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
    if unseen and sources:
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


def labelled_part(loaded: LoadedDomain, classes: Sequence[str]) -> Table:
    """Return the samples of a source that teach, labels being indices into `classes`; its report says what went.

    Raises:
        UserInputError: if none is left.
    """
    table, outside = _remapped(loaded.table, classes)
    keep = np.zeros(len(table), dtype=bool)
    keep[loaded.preflight.usable] = True
    # Of copies with different labels nobody knows which is right, so none of them teaches.
    keep[loaded.preflight.conflicting] = False
    report = loaded.report
    report["dropped_classes"] = _dropped(loaded.table, outside)
    report["mislabelled_dropped"] = len(loaded.preflight.conflicting)
    result = table.subset(np.flatnonzero(keep & ~outside))
    report["classes"], report["n"] = result.counts(classes), len(result)
    if not len(result):
        raise UserInputError("source without a usable image of the run's classes", where=loaded.spec.where)
    return result


def divided_target(loaded: LoadedDomain, classes: Sequence[str], seed: int) -> tuple[Table, Table]:
    """Return (adaptation part, still with the labels that are known, test part); the report says how.

    Raises:
        UserInputError: if one of them would be empty.
    """
    table, report = loaded.table.subset(loaded.preflight.usable), loaded.report
    digests = np.array([loaded.preflight.digests[i] for i in loaded.preflight.usable], dtype=object)
    train, test, rule = target_parts(table, loaded.spec, seed, report["skipped"])
    report["unused_parts"] = unused_parts(table, loaded.spec, np.concatenate([train, test]))
    mapped, outside = _remapped(table, classes)
    removed = {"same_file": 0, "same_content": 0}
    if rule != "transductive":
        train, removed = _without_test_images(table, digests, train, test)
    filtered = int(outside[train].sum())
    report["dropped_classes"] = _dropped(table, outside)
    train, test = train[~outside[train]], test[~outside[test]]
    if not len(train) or not len(test):
        missing = "an unlabelled training image" if not len(train) else "a test image"
        raise UserInputError(f"target without {missing} of the run's classes", where=loaded.spec.where)
    test_part = mapped.subset(test)
    labelled = int((test_part.labels >= 0).sum())
    report |= {
        "classes": test_part.counts(classes),
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
    return mapped.subset(shuffled), test_part


def images_of_test(sources: Sequence[LoadedDomain], tables: Sequence[Table], target: LoadedDomain, test: Table) -> int:
    """Return how many source images that training sees with their labels are images of the target's test part."""
    test_content = {target.content[row] for row in test.rows.tolist()}
    pairs = zip(sources, tables, strict=True)
    return sum(source.content[row] in test_content for source, table in pairs for row in table.rows.tolist())


def _without_test_images(
    table: Table, digests: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """Return the training positions whose file and content are not in the test part, and how many went."""
    keys, contents = {table.keys[i] for i in test}, {digests[i] for i in test}
    same_key = np.array([table.keys[i] in keys for i in train], dtype=bool)
    same_content = np.array([digests[i] in contents for i in train], dtype=bool) & ~same_key
    counts = {"same_file": int(same_key.sum()), "same_content": int(same_content.sum())}
    return train[~(same_key | same_content)], counts
