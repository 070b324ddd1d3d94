"""What was read of a run's datasets: the types of data.json, as `DomainSet.report` holds it."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class PreflightReport(TypedDict):
    """What is wrong with the files of a dataset: counts, and the first of each kind by name."""

    checked: int
    unusable: int
    unusable_files: list[list[str]]
    duplicate_groups: int
    duplicate_files: list[list[str]]
    mislabelled_groups: int
    mislabelled_files: list[list[str]]


class ScalingReport(TypedDict):
    """How one-channel images became 8 bits; see `fercore.records.result.Scaling`."""

    range: str
    one_channel: int
    deep: int
    colour: int


class LabelledReport(TypedDict):
    """Samples of the target whose labels are trained on."""

    n: int
    per_class: dict[str, int]


class DomainReport(TypedDict):
    """One dataset of a run.

    Attributes:
        found: samples that its format names. classes: class -> samples. dropped_classes: those outside the run.
        unknown_labels: label -> samples. skipped: why samples are left out -> how many.
        unread_columns: of a table. found_by_end: listed paths of which only the end fits a file.
        unused_parts: part -> samples. n: of a source, samples to train on; n_validation: held out.
        n_adaptation, n_test: of the target. division: the rule that divided it.
        removed_from_adaptation: which images it shares with its test part. labelled_test: test images with a label.
    """

    spec: str
    name: str
    format: str
    found: int
    classes: dict[str, int]
    dropped_classes: dict[str, int]
    unknown_labels: dict[str, int]
    missing_files: int
    first_missing: list[str]
    skipped: dict[str, int]
    unread_columns: list[str]
    found_by_end: int
    first_by_end: list[str]
    unused_parts: dict[str, int]
    preflight: PreflightReport
    scaling: NotRequired[ScalingReport]
    # Of a source.
    n: NotRequired[int]
    n_validation: NotRequired[int]
    mislabelled_dropped: NotRequired[int]
    # Of the target.
    labelled: NotRequired[LabelledReport]
    n_adaptation: NotRequired[int]
    n_test: NotRequired[int]
    transductive: NotRequired[bool]
    division: NotRequired[str]
    adaptation_filtered_by_label: NotRequired[int]
    removed_from_adaptation: NotRequired[dict[str, int]]
    labelled_test: NotRequired[int]
    test_without_label: NotRequired[int]


class UnitCounts(TypedDict):
    """What a file or detector says of one dataset's action units.

    Attributes:
        units: that it knows. without_row: images that it does not. rows_of_no_image: the other way round.
        codes: different sets of present units.
    """

    units: int
    without_row: int
    rows_of_no_image: int
    cells_without_number: int
    codes: int


class DomainUnits(UnitCounts):
    """The same, with where they are from, and part -> images that went because they have none."""

    name: str
    provider: str
    skipped: dict[str, int]


class UnitsReport(TypedDict):
    """Action units of a run: those that all domains have, those that only some have, and from which score one shows."""

    names: list[str]
    unshared: list[str]
    threshold: float
    domains: list[DomainUnits]


# By call: "left out" is no name.
LabelCountsReport = TypedDict("LabelCountsReport", {"labelled": int, "unlabelled": int, "left out": int})


class LabelSplitReport(TypedDict):
    """How one dataset was divided into labelled and unlabelled samples; see `fercore.records.result.LabelSplit`."""

    labels: int
    rule: str
    by: str
    seed: int
    counts: LabelCountsReport
    per_class: dict[str, int]
    short: int
    include_labelled: bool
    subjects_of_test: int


class DataReport(TypedDict):
    """All datasets of a run.

    Attributes:
        class_rule: why the classes are these. test_images_in_sources: images of the test part that a source has too.
    """

    classes: list[str]
    class_rule: str
    sources: list[DomainReport]
    target: DomainReport
    test_images_in_sources: int
    au: UnitsReport | None
    label_split: LabelSplitReport | None
