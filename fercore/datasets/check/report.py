"""What `data check` reports: the types of its JSON."""

from __future__ import annotations

from typing import Final, Literal, NotRequired, TypeAlias, TypedDict, get_args


class Copies(TypedDict):
    """Images that are one picture; `similarity` where they are not equal to the byte."""

    paths: list[str]
    labels: list[str]
    parts: list[str]
    similarity: NotRequired[float]


class Shared(Copies):
    """A picture that stands in two datasets."""

    specs: list[str]


class Unusable(TypedDict):
    """An image that cannot be used, and why."""

    path: str
    reason: str


class Overlap(TypedDict):
    """A subject or sequence, and the parts that show it."""

    name: str
    parts: list[str]


class Absent(TypedDict):
    """Classes that a part has no sample of."""

    part: str
    classes: list[str]


# By call: "class" is no name.
Difference = TypedDict("Difference", {"part": str, "class": str, "found": int, "published": int})
"""A count that is published otherwise; part or class "" = the whole."""


class Published(TypedDict):
    """What is published of a dataset, and where its counts are others."""

    title: str
    page: str
    source: str
    wrong: list[Difference]


class Overlaps(TypedDict):
    """Subjects and sequences of a dataset that stand in several of its parts."""

    subjects: list[Overlap]
    sequences: list[Overlap]


class CheckedDomain(TypedDict):
    """One dataset; `counts` is part -> class -> samples, `faults` how many faults were counted."""

    spec: str
    format: str
    n: int
    counts: dict[str, dict[str, int]]
    subjects: int
    skipped: dict[str, int]
    unread_columns: list[str]
    found_by_end: int
    first_by_end: list[str]
    published: Published
    unknown_labels: dict[str, int]
    missing_files: list[str]
    unusable: list[Unusable]
    duplicates: list[Copies]
    near_duplicates: list[Copies]
    mislabelled: list[Copies]
    leaks: list[Copies]
    subjects_in_several_parts: list[Overlap]
    sequences_in_several_parts: list[Overlap]
    classes_missing_in_a_part: list[Absent]
    folders_beside_parts: list[str]
    faults: int


Fault: TypeAlias = Literal[
    "unknown_labels", "missing_files", "unusable", "duplicates", "near_duplicates", "mislabelled", "leaks",
    "subjects_in_several_parts", "sequences_in_several_parts", "classes_missing_in_a_part", "folders_beside_parts",
]  # fmt: skip
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)
"""Kinds of faults, each a list or a count by name in `CheckedDomain`."""


class CheckReport(TypedDict):
    """All datasets, and the pictures that two of them share."""

    schema: int
    similar: float
    domains: list[CheckedDomain]
    between: list[Shared]
    faults: int
