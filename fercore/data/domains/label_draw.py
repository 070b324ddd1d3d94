"""Drawing the labelled samples of a training part: how many of each class, by image or by subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fercore.data.domains.options import label_quota
from fercore.data.labels import CANONICAL
from fercore.data.noise import permutation
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError


def draw_labels(
    pool: Table, labels: np.ndarray, classes: Sequence[str], spec: DomainSpec, seed: int
) -> tuple[list[int], list[int], dict[str, Any]]:
    """Draw the labelled samples of a training part.

    Args:
        pool: the training part. labels: int64[n] of the classes; -1 = not to be drawn.
        classes: of the run. spec: options as of `fercore.data.domains.labelled`. seed: of the drawing.

    Returns:
        positions of the labelled samples; of those left out with them; and {"labels", "rule", "by", "seed", "short"}:
        labels asked for, how they were shared out, what they fall short of that.

    Raises:
        UserInputError: if there are fewer samples than labels, or a class has none.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    _refuse_too_few(counts, classes, spec)
    # By canonical number: Ada-CM's rule gives fear a number of its own.
    canonical = [CANONICAL.index(name) for name in classes]
    rule, by_name = label_quota(dict(zip(canonical, counts.tolist(), strict=True)), spec)
    quota = {k: by_name[number] for k, number in enumerate(canonical)}
    by = _unit(pool, spec)
    # By name: the draw must not depend on the order in which a file system lists its files.
    order = np.array(sorted(range(len(pool)), key=lambda i: pool.keys[i]), dtype=np.int64)
    draw = _by_subject if by == "subject" else _by_image
    chosen, skipped = draw(order, labels, pool.subjects, quota, seed)
    asked = spec.integer("label_count", sum(quota.values()))
    short = sum(quota.values()) - len(chosen)
    return chosen, skipped, {"labels": asked, "rule": rule, "by": by, "seed": seed, "short": short}


def _refuse_too_few(counts: np.ndarray, classes: Sequence[str], spec: DomainSpec) -> None:
    """Refuse a training part with fewer labelled samples than asked for in all, or none of a class."""
    if counts.sum() < (count := spec.integer("label_count", 0)):
        what = f"{count} labels asked for, and {counts.sum()} labelled images to take them from"
        raise UserInputError(what, where=spec.where, fix="ask for fewer or give more images")
    empty = [name for name, n in zip(classes, counts, strict=True) if not n]
    if empty and not spec.asks_for_few:
        fix = "leave the class out of data.classes"
        raise UserInputError(f"no image of {empty[0]} to label in the training part", where=spec.where, fix=fix)
    if empty:
        what = f"no labelled target sample of {empty[0]} in the training part"
        what += (
            " (what shows a subject or sequence of the test part, or has a copy under another label, does not count)"
        )
        fix = "leave the class out of data.classes, or divide the target by subject (?divide=subject:50/50, ?split=all)"
        raise UserInputError(what, where=spec.where, fix=fix)


def _unit(pool: Table, spec: DomainSpec) -> str:
    # One subject alone cannot be on one side and leave anything on the other.
    known = all(pool.subjects) and len(set(pool.subjects)) > 1
    by = spec.choice("label_by", ("subject", "image"), "subject" if known and not spec.asks_for_few else "image")
    if by == "subject" and not known:
        raise UserInputError("not every subject is known", where=spec.where, fix="give label_by=image")
    return by


def _by_image(
    order: np.ndarray, labels: np.ndarray, subjects: Sequence[str], quota: Mapping[int, int], seed: int
) -> tuple[list[int], list[int]]:
    chosen: list[int] = []
    for label, wanted in quota.items():
        members = order[labels[order] == label]
        chosen += members[permutation(len(members), "labels", seed, label)][:wanted].tolist()
    return chosen, []


def _by_subject(
    order: np.ndarray, labels: np.ndarray, subjects: Sequence[str], quota: Mapping[int, int], seed: int
) -> tuple[list[int], list[int]]:
    """Return the labelled samples, and the other samples of the same subjects."""
    members: dict[str, list[int]] = {}
    for i in order.tolist():
        members.setdefault(subjects[i], []).append(i)
    names = sorted(members)
    need = dict(quota)
    chosen: list[int] = []
    skipped: list[int] = []
    # Subject after subject until every class has its labels, what is labelled is of few subjects.
    for place in permutation(len(names), "label subjects", seed).tolist():
        own = members[names[place]]
        taken: list[int] = []
        for i in (own[k] for k in permutation(len(own), "label images", seed, names[place]).tolist()):
            if need.get(int(labels[i]), 0) > 0:
                need[int(labels[i])] -= 1
                taken.append(i)
        if taken:
            chosen += taken
            # Their other images would be near copies of labelled ones among the unlabelled.
            skipped += sorted(set(own) - set(taken))
        if not any(need.values()):
            break
    return chosen, skipped
