"""The report of `data check` in words: one table a dataset, then one line a kind of fault with the first few of it."""

from __future__ import annotations

from collections.abc import Sequence

from fercore.data.labels import CANONICAL, unknown_names
from fercore.datasets.check.find import UNLABELLED_NAME
from fercore.datasets.check.report import CheckedDomain, CheckReport, Copies, Difference

NAMED = 5
"""Faults of a kind that are named; the JSON has all of them."""


def count_rows(domain: CheckedDomain) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of counts; a published count that differs stands in brackets."""
    parts = list(domain["counts"])
    wrong = {(item["part"], item["class"]): item["published"] for item in domain["published"]["wrong"]}
    published = sorted({name for part, name in wrong if name} - set(CANONICAL))
    names = [*CANONICAL, *published, UNLABELLED_NAME]
    rows = []
    for name in names:
        cells = [domain["counts"][part].get(name, 0) for part in parts]
        if any(cells) or any((part, name) in wrong for part in parts):
            rows.append([name, *(_cell(n, wrong.get((part, name))) for part, n in zip(parts, cells, strict=True))])
    totals = [sum(domain["counts"][part].values()) for part in parts]
    rows.append(["all", *(_cell(n, wrong.get((part, ""))) for part, n in zip(parts, totals, strict=True))])
    return ["class", *(part or "all" for part in parts)], rows


def fault_lines(domain: CheckedDomain) -> list[str]:
    """Return lines about what is wrong with one dataset; none if nothing is."""
    lines = []
    beside = [item for item in domain["published"]["wrong"] if item["part"] not in domain["counts"]]
    if domain["published"]["wrong"]:
        text = f"counts differ from the published ones ({domain['published']['source']})"
        lines.append("; ".join([text, *(_difference(item) for item in beside if not (item["part"] and item["class"]))]))
    if domain["unknown_labels"]:
        unknown = domain["unknown_labels"]
        lines.append(f"labels nobody knows: {unknown_names(unknown, most=len(unknown))}")
    lines += _listed("listed files missing", domain["missing_files"])
    lines += _listed("unusable images", [f"{item['path']}: {item['reason']}" for item in domain["unusable"]])
    for groups, what in (
        (domain["duplicates"], "exact duplicates"),
        (domain["near_duplicates"], "near duplicates"),
        (domain["mislabelled"], "copies under different labels, one of them wrong"),
        (domain["leaks"], "copies in more than one part (train-test leak)"),
    ):
        lines += _listed(what, [_group(group) for group in groups])
    for name, overlaps in (
        ("subjects", domain["subjects_in_several_parts"]),
        ("sequences", domain["sequences_in_several_parts"]),
    ):
        items = [f"{each['name']} ({', '.join(each['parts'])})" for each in overlaps]
        lines += _listed(f"{name} in more than one part", items)
    for item in domain["classes_missing_in_a_part"]:
        lines.append(f"classes missing in part {item['part'] or 'all'}: {', '.join(item['classes'])}")
    return lines


def between_lines(report: CheckReport) -> list[str]:
    """Return lines about pictures that stand in two datasets."""
    items = [
        " = ".join(f"{path} ({part or 'all'})" for path, part in zip(item["paths"], item["parts"], strict=True))
        for item in report["between"]
    ]
    return _listed("pictures in two datasets", items)


def _difference(item: Difference) -> str:
    """Return a difference that has no place in the table: a part that is not there, or the whole of several."""
    if item["part"]:
        return f"no {item['part']} part of {item['published']}"
    return f"{item['class'] or 'all'} {item['found']} [{item['published']}]"


def _group(item: Copies) -> str:
    text = " = ".join(item["paths"][:3]) + (" = ..." if len(item["paths"]) > 3 else "")
    notes = []
    if len(item["labels"]) > 1:
        notes.append("/".join(item["labels"]))
    if len(item["parts"]) > 1:
        notes.append("/".join(item["parts"]))
    if "similarity" in item:
        notes.append(f"similarity {item['similarity']}")
    return text + (f" [{'; '.join(notes)}]" if notes else "")


def _listed(what: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    more = [f"  ... and {len(items) - NAMED} more"] if len(items) > NAMED else []
    return [f"{what}: {len(items)}", *(f"  {item}" for item in items[:NAMED]), *more]


def _cell(n: int, published: int | None) -> str:
    return f"{n} [{published}]" if published is not None else str(n)
