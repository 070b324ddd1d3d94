"""Which samples of a domain train and which test: parts, limits, and the division of a domain that has no parts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from fercore.data.domains.skipped import left_out_lines
from fercore.data.noise import permutation
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError


def choose_split(table: Table, spec: DomainSpec) -> Table:
    """Return the part a spec's `split` names, as an undivided table; without the option, the table as it is.

    Raises:
        UserInputError: if there is no such part.
    """
    wanted = spec.options.get("split", "").lower()
    if not wanted:
        return table
    chosen = table if wanted == "all" else table.subset(_part(table, wanted))
    if not len(chosen):
        have = sorted({part for part in table.split if part}) or ["none"]
        fix = f"parts it has: {', '.join(have)}"
        raise UserInputError(f"no {wanted} part in the dataset", where=spec.where, fix=fix)
    return chosen


def unused_parts(table: Table, spec: DomainSpec, used: np.ndarray) -> dict[str, int]:
    """Return part -> samples that a run neither trains nor tests on, of a dataset that comes in parts.

    Args:
        table: all samples that could be used. spec: of the dataset. used: positions of those that are.
    """
    if undivided(table, spec):
        return {}
    rest = Counter(table.split)
    # Positions as a set: a transductive target uses its samples on both sides.
    rest.subtract(Counter(table.split[i] for i in set(used.tolist())))
    return {part or "without a part": n for part, n in sorted(rest.items()) if n}


def training_part(table: Table, spec: DomainSpec, skipped: Mapping[str, int]) -> Table:
    """Return what a source trains on: its training part, or all of a dataset that has no parts.

    Args:
        table: all samples. spec: of the dataset. skipped: reason -> samples its format left out, for messages.

    Raises:
        UserInputError: if there are parts but nothing to train on.
    """
    if undivided(table, spec):
        return table
    train = table.subset(_part(table, "train"))
    if not len(train):
        fix = "add ?split=all or ?split=test to use its test part for training"
        raise UserInputError(_without("no training part in the dataset", skipped), where=spec.where, fix=fix)
    return train


def undivided(table: Table, spec: DomainSpec) -> bool:
    """Return whether a table counts as one without parts."""
    return "split" in spec.options or not any(table.split)


def limited(table: Table, spec: DomainSpec, seed: int) -> Table:
    """Return `limit` samples drawn at random, in their old order, or the table as it is."""
    limit = spec.integer("limit", 0) or len(table)
    if limit >= len(table):
        return table
    return table.subset(np.sort(permutation(len(table), "limit", seed, len(table))[:limit]))


def target_parts(
    table: Table, spec: DomainSpec, seed: int, skipped: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return positions of a target's adaptation and test parts, and how they came about.

    The rule is "transductive", "parts", "by subject" (each subject on one side, classes as even as that allows),
    "by class" (half of each class on either side) or, without labels, "by seed".

    Args:
        table: usable samples. spec: of the dataset. seed: of the division. skipped: see `training_part`.

    Raises:
        UserInputError: if one part would be empty.
    """
    if spec.flag("transductive"):
        train = test = np.arange(len(table))
        rule = "transductive"
    elif not undivided(table, spec):
        train, test, rule = _part(table, "train"), _part(table, "test"), "parts"
    elif all(table.subjects) and len(set(table.subjects)) > 1:
        train, test = _halves_by_subject(table, seed)
        rule = "by subject"
    else:
        train, test = _halves_by_class(table, seed)
        rule = "by class" if (table.labels >= 0).any() else "by seed"
    if not len(train) or not len(test):
        if not len(test):
            # No advice here may end in a score on training images.
            fix = "put it where the training part is: a folder (test, val, PrivateTest, ...), or rows of that split"
            raise UserInputError(_without("target without a test part", skipped), where=spec.where, fix=fix)
        fix = "add ?transductive=true to adapt and test on the same images, or ?split=all to divide them"
        raise UserInputError(_without("target without a training part", skipped), where=spec.where, fix=fix)
    return train, test, rule


def _without(what: str, skipped: Mapping[str, int]) -> str:
    """Return a message about a missing part, with what the format left out: the part may be there by another name."""
    return "; ".join([what, *left_out_lines(skipped)])


def _part(table: Table, name: str) -> np.ndarray:
    """Return positions of a part; a validation part stands in for a test part that is not there."""
    parts = np.array(table.split, dtype=object)
    if name == "test" and "test" not in table.split:
        name = "val"
    return np.flatnonzero(parts == name)


def _halves_by_class(table: Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    train: list[int] = []
    test: list[int] = []
    for label in np.unique(table.labels):
        members = np.flatnonzero(table.labels == label)
        members = members[permutation(len(members), "half", seed, label)]
        # An odd one goes to the shorter side, so that many small classes do not pile up on one.
        half = (len(members) + (len(train) <= len(test))) // 2
        train += members[:half].tolist()
        test += members[half:].tolist()
    return np.array(sorted(train), dtype=np.int64), np.array(sorted(test), dtype=np.int64)


def _halves_by_subject(table: Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    members: dict[str, list[int]] = defaultdict(list)
    for i, subject in enumerate(table.subjects):
        members[subject].append(i)
    names = sorted(members)
    order = [names[i] for i in permutation(len(names), "subjects", seed)]
    # Large subjects first: the small ones even out what they leave. The sort is stable, so the seed decides ties.
    order.sort(key=lambda name: -len(members[name]))
    # Room for -1: samples without a label are evened out like a class.
    k = int(table.labels.max(initial=-1)) + 2
    sides: tuple[list[int], list[int]] = ([], [])
    totals = np.zeros((2, k), dtype=np.int64)
    for name in order:
        counts = np.bincount(table.labels[members[name]] + 1, minlength=k)
        side = int(_imbalance(totals, counts, 1) < _imbalance(totals, counts, 0))
        sides[side].extend(members[name])
        totals[side] += counts
    return np.array(sorted(sides[0]), dtype=np.int64), np.array(sorted(sides[1]), dtype=np.int64)


def _imbalance(totals: np.ndarray, counts: np.ndarray, side: int) -> int:
    """Return how uneven two sides become, by class and in all, if `counts` goes to `side`."""
    after = totals.copy()
    after[side] += counts
    gap = after[0] - after[1]
    return int(np.abs(gap).sum() + abs(gap.sum()))
