"""`fercore data check`: what is in a dataset, and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

from collections.abc import Sequence

from fercore.data.formats.folder import beside_parts
from fercore.data.spec import DomainSpec
from fercore.datasets.check import find
from fercore.datasets.check.look import Progress, Seen, look
from fercore.datasets.check.near import SIMILAR
from fercore.datasets.check.report import FAULTS, CheckedDomain, CheckReport
from fercore.errors import UserInputError

__all__ = ["check", "find", "look"]


def check(specs: Sequence[DomainSpec], *, similar: float = SIMILAR, progress: Progress | None = None) -> CheckReport:
    """Look at every image of some datasets and say what is wrong, as JSON values.

    {"schema": 1, "similar": ..., "domains": [...], "between": [...], "faults": n}; a domain has its counts, the
    published ones they differ from, and lists of unusable, duplicate, near-duplicate, mislabelled and leaking images,
    of subjects and sequences in more than one part, of folders beside parts, and of labels nobody knows. `faults`
    counts all of them.

    Args:
        specs: one or more. similar: correlation from which two pictures count as one.
        progress: told about the images seen of each dataset.

    Raises:
        UserInputError: for a layout that cannot be read.
    """
    if not 0 < similar <= 1:
        raise UserInputError(f"similarity {similar} is not above 0 and at most 1", where="--similar")
    seen = [look(spec, progress) for spec in specs]
    domains = [_domain(one, similar) for one in seen]
    shared = find.between(seen, similar)
    faults = len(shared) + sum(domain["faults"] for domain in domains)
    return {"schema": 1, "similar": similar, "domains": domains, "between": shared, "faults": faults}


def _domain(seen: Seen, similar: float) -> CheckedDomain:
    copies = find.duplicates(seen)
    near = find.near_duplicates(seen, similar)
    both = [*copies, *near]
    table, rows = seen.table, seen.scan.rows
    overlaps, published = find.overlaps(table), find.differences(seen)
    domain: CheckedDomain = {
        "spec": seen.spec.text,
        "format": seen.spec.format,
        "n": len(table),
        "counts": find.counts(table),
        "subjects": len(set(table.subjects) - {""}),
        "skipped": dict(rows.skipped),
        "unread_columns": list(rows.unread),
        "found_by_end": len(rows.by_end),
        "first_by_end": rows.by_end[:1],
        "published": published,
        "unknown_labels": dict(rows.unknown),
        "missing_files": list(rows.missing),
        "unusable": find.unusable(seen),
        "duplicates": copies,
        "near_duplicates": near,
        "mislabelled": find.mislabelled(both),
        "leaks": find.leaks(both),
        "subjects_in_several_parts": overlaps["subjects"],
        "sequences_in_several_parts": overlaps["sequences"],
        "classes_missing_in_a_part": find.absent(table),
        "folders_beside_parts": beside_parts(rows),
        "faults": 0,
    }
    domain["faults"] = sum(len(domain[kind]) for kind in FAULTS) + len(published["wrong"])
    return domain
