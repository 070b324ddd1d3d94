"""Options of every format that change a dataset after it has been read: classes and parts.

drop=contempt,neutral     leave these classes out
split_file=FILE           parts as a file of `fercore data split` says
divide=class:90/10        parts drawn by `seed` (0): train and test shares, by "class" or whole "subject"
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np

from fercore.data.domains.split import apply_split, divide
from fercore.data.formats.reading.scan import user_path
from fercore.data.labels import CANONICAL, canonical_label
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError

ADACM: dict[int, tuple[int, int]] = {100: (10, 15), 400: (40, 60), 1000: (100, 150), 2000: (200, 300), 4000: (200, 625)}
"""Budget -> labels of fear, labels of every other class: Ada-CM's own lists for RAF-DB."""

HALF = Fraction(1, 2)
SHARES = re.compile(r"(class|subject):([0-9]{1,2})/([0-9]{1,2})")


def apply_options(table: Table, spec: DomainSpec, skipped: Counter[str]) -> Table:
    """Return the table as a spec's options want it; `skipped` counts what goes.

    Raises:
        UserInputError: for an option that cannot be read, a class nobody knows, or a table left empty.
    """
    if "drop" in spec.options:
        labels = [canonical_label(name, where=spec.where) for name in spec.options["drop"].split(",")]
        gone = np.isin(table.labels, labels)
        skipped["class dropped by ?drop="] += int(gone.sum())
        table = _not_empty(table.subset(np.flatnonzero(~gone)), spec, "drop")
    if "split_file" in spec.options and "divide" in spec.options:
        raise UserInputError("options split_file and divide at once", where=spec.where, fix="give one of them")
    if "split_file" in spec.options:
        table = apply_split(table, user_path(spec.options["split_file"]))
    if "divide" in spec.options:
        table = replace(table, split=tuple(_divided(table, spec)))
    return table


def _divided(table: Table, spec: DomainSpec) -> list[str]:
    match = SHARES.fullmatch(spec.options["divide"])
    if match is None or not int(match[2]) or not int(match[3]):
        fix = "write divide=class:90/10 or divide=subject:80/20: training share, test share"
        raise UserInputError(f"cannot read option divide={spec.options['divide']!r}", where=spec.where, fix=fix)
    shares = {"train": float(match[2]), "test": float(match[3])}
    return divide(table, shares, by=match[1], seed=spec.integer("seed", 0))


def label_quota(counts: Mapping[int, int], spec: DomainSpec) -> tuple[str, dict[int, int]]:
    """Return the name of the rule, and class (canonical number) -> labels the spec's options give it.

    shots=K gives K to each class; fraction=F the share F of the class's samples, to the nearest, at least one;
    labels=N shares N out by `label_rule`.

    Args:
        counts: class -> labelled samples there are. spec: which has one of those options.

    Raises:
        UserInputError: as `budget_quota`.
    """
    if "shots" in spec.options:
        shots = spec.integer("shots", 1, least=1)
        return f"shots={shots}", dict.fromkeys(counts, shots)
    if "fraction" in spec.options:
        share = Fraction(spec.options["fraction"])
        return f"fraction={float(share):g}", {label: max(1, floor(share * n + HALF)) for label, n in counts.items()}
    rule = spec.choice("label_rule", ("equal_floor", "adacm"), "equal_floor")
    return rule, budget_quota(list(counts), spec.integer("label_count", 1, least=1), spec)


def budget_quota(classes: list[int], budget: int, spec: DomainSpec) -> dict[int, int]:
    """Return class (canonical number) -> labels it is given of a budget, by the spec's `label_rule`.

    "equal_floor" gives floor(budget / classes) to each, "adacm" what Ada-CM's own lists for RAF-DB give.

    Raises:
        UserInputError: for a budget smaller than the number of classes, or one Ada-CM has no list for.
    """
    if spec.choice("label_rule", ("equal_floor", "adacm"), "equal_floor") == "adacm":
        if budget not in ADACM:
            known = ", ".join(map(str, ADACM))
            raise UserInputError(f"no Ada-CM list of {budget} labels", where=spec.where, fix=f"known: {known}")
        fear, other = ADACM[budget]
        return {label: fear if CANONICAL[label] == "fear" else other for label in classes}
    if budget < len(classes) or not classes:
        what = f"{budget} labels for {len(classes)} classes"
        raise UserInputError(what, where=spec.where, fix="give at least one label a class")
    return dict.fromkeys(classes, budget // len(classes))


def _not_empty(table: Table, spec: DomainSpec, option: str) -> Table:
    if not len(table):
        raise UserInputError(f"option {option} leaves no sample", where=spec.where)
    return table
