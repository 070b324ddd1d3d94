"""The faults that `data check` looks for in a dataset that has been seen; every function returns JSON values."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from fercore.data.labels import CANONICAL
from fercore.data.table import Table
from fercore.datasets.check.look import Seen
from fercore.datasets.check.near import near_pairs
from fercore.datasets.check.report import Absent, Copies, Difference, Overlap, Overlaps, Published, Shared, Unusable
from fercore.datasets.facts import FACTS

UNLABELLED_NAME = "no label"


def counts(table: Table) -> dict[str, dict[str, int]]:
    """Return part -> class -> samples; "" is the part of a dataset without parts."""
    by_part: dict[str, Counter[str]] = defaultdict(Counter)
    for part, label in zip(table.split, table.labels.tolist(), strict=True):
        by_part[part][CANONICAL[label] if label >= 0 else UNLABELLED_NAME] += 1
    order = [*CANONICAL, UNLABELLED_NAME]
    return {part: {name: by_part[part][name] for name in order if by_part[part][name]} for part in sorted(by_part)}


def differences(seen: Seen) -> Published:
    """Return what is published of the dataset, and where the counts found are others."""
    facts = FACTS.get(seen.spec.format)
    published = facts.fitting(seen.spec, seen.scan.layout) if facts else None
    if facts is None or published is None:
        return {"title": facts.title if facts else "", "page": facts.page if facts else "", "source": "", "wrong": []}
    have = counts(seen.table)
    # Numbers of the whole stand under "": parts do not matter for them.
    have[""] = counts(replace(seen.table, split=("",) * len(seen.table))).get("", {})
    wrong: list[Difference] = []
    for part, n in published.sizes.items():
        n_here = sum(have.get(part, {}).values())
        if n_here != n:
            wrong.append({"part": part, "class": "", "found": n_here, "published": n})
    for part, by_class in published.counts.items():
        for name, n in by_class.items():
            n_here = have.get(part, {}).get(name, 0)
            if n_here != n:
                wrong.append({"part": part, "class": name, "found": n_here, "published": n})
    return {"title": facts.title, "page": facts.page, "source": published.source, "wrong": wrong}


def unusable(seen: Seen) -> list[Unusable]:
    """Return images that cannot be used, and why."""
    keys = seen.table.keys
    return [{"path": keys[i], "reason": reason} for i, reason in enumerate(seen.faults) if reason]


def duplicates(seen: Seen) -> list[Copies]:
    """Return groups of images with one content; `labels` has more than one entry where a label must be wrong."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, digest in enumerate(seen.digests):
        if digest:
            groups[digest].append(i)
    return [_group(seen.table, group) for group in groups.values() if len(group) > 1]


def near_duplicates(seen: Seen, similar: float) -> list[Copies]:
    """Return pairs of images that are one picture, exact copies and frames of one known sequence left out."""
    pairs, alike = near_pairs(seen.thumbs, similar)
    sequences = seen.table.sequences
    near: list[Copies] = []
    for (i, j), value in zip(pairs.tolist(), alike.tolist(), strict=True):
        # Frames of one recording are alike by nature.
        recorded = sequences[i] and sequences[i] == sequences[j] and seen.table.subjects[i] == seen.table.subjects[j]
        if seen.digests[i] != seen.digests[j] and not recorded:
            near.append({**_group(seen.table, [i, j]), "similarity": round(value, 4)})
    return near


def _group(table: Table, at: Sequence[int]) -> Copies:
    labels = sorted({int(table.labels[i]) for i in at} - {-1})
    return {
        "paths": [table.keys[i] for i in at],
        "labels": [CANONICAL[label] for label in labels],
        "parts": sorted({table.split[i] for i in at}),
    }


def leaks(groups: Sequence[Copies]) -> list[Copies]:
    """Return the groups of copies that stand in more than one part."""
    return [group for group in groups if len([part for part in group["parts"] if part]) > 1]


def mislabelled(groups: Sequence[Copies]) -> list[Copies]:
    """Return the groups of copies that stand under more than one label: at least one of them is wrong."""
    return [group for group in groups if len(group["labels"]) > 1]


def overlaps(table: Table) -> Overlaps:
    """Return subjects, and sequences, that stand in more than one part, with the parts."""
    # Sequence names are unique within a subject only.
    pairs = zip(table.subjects, table.sequences, strict=True)
    sequences = [f"{subject}/{name}" if subject and name else name for subject, name in pairs]
    return {"subjects": _overlaps(table.subjects, table.split), "sequences": _overlaps(sequences, table.split)}


def _overlaps(column: Sequence[str], split: Sequence[str]) -> list[Overlap]:
    where: dict[str, set[str]] = defaultdict(set)
    for value, part in zip(column, split, strict=True):
        if value and part:
            where[value].add(part)
    return [{"name": key, "parts": sorted(parts)} for key, parts in sorted(where.items()) if len(parts) > 1]


def absent(table: Table) -> list[Absent]:
    """Return classes that some part has and another part, labelled as well, has not."""
    have = {part: set(names) - {UNLABELLED_NAME} for part, names in counts(table).items()}
    labelled = {part: names for part, names in have.items() if names}
    every = set().union(*labelled.values()) if labelled else set()
    missing = {part: [name for name in CANONICAL if name in every - names] for part, names in labelled.items()}
    return [{"part": part, "classes": names} for part, names in missing.items() if names]


def between(seen: Sequence[Seen], similar: float) -> list[Shared]:
    """Return pairs of pictures that stand in two of the datasets, exact or near."""
    shared: list[Shared] = []
    for a, b in combinations(seen, 2):
        exact = {digest: i for i, digest in enumerate(a.digests) if digest}
        copies = {(exact[digest], j): 1.0 for j, digest in enumerate(b.digests) if digest in exact}
        # Both together: pairs within one of them are found too, and left out below.
        pairs, alike = near_pairs(np.concatenate([a.thumbs, b.thumbs]), similar)
        for (i, j), value in zip(pairs.tolist(), alike.tolist(), strict=True):
            if i < len(a) <= j:
                # An exact copy keeps its 1.0.
                copies.setdefault((i, j - len(a)), value)
        for (i, j), value in sorted(copies.items()):
            labels = sorted({int(a.table.labels[i]), int(b.table.labels[j])} - {-1})
            shared.append({
                "specs": [a.spec.text, b.spec.text],
                "paths": [a.table.keys[i], b.table.keys[j]],
                "parts": [a.table.split[i], b.table.split[j]],
                "labels": [CANONICAL[label] for label in labels],
                "similarity": round(value, 4),
            })  # fmt: skip
    return shared
