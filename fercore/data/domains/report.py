"""The data report in words: which classes the domains do not share, what was dropped, what is wrong with files."""

from __future__ import annotations

from collections.abc import Mapping

from fercore.data.domains.domain_set import UNLABELLED
from fercore.data.domains.skipped import by_end_lines, left_out_lines, unread_lines
from fercore.data.formats.folder import LOOSE
from fercore.data.labels import unknown_names
from fercore.records.data import DataReport, DomainReport, LabelSplitReport, ScalingReport, UnitsReport
from fercore.terminal import counted


def mismatch_lines(report: DataReport) -> list[str]:
    """Return lines for people; none if all domains agree and nothing was dropped.

    Args:
        report: `DomainSet.report`.
    """
    lines = []
    target, given = report["target"], report["target"]["labelled"]["n"]
    # A source that is a part of the target has been read once, and what is to be said of it is said there.
    sources = [source for source in report["sources"] if not given or source["spec"] != target["spec"]]
    for domain in [*sources, target]:
        name = domain["name"]
        lines += [f"{name}: {line}" for line in (*_classes(domain, report["classes"]), *_faults(domain))]
    lines += _split_lines(report.get("label_split"))
    lines += _unit_lines(report.get("au"))
    filtered = target["adaptation_filtered_by_label"]
    if filtered:
        images = counted(filtered, "unlabelled image")
        text = f"{images} left out by class, which is not in the run (this uses labels)"
        lines.append(f"{target['name']}: {text}")
    removed = sum(target["removed_from_adaptation"].values())
    if removed:
        lines.append(f"{target['name']}: {counted(removed, 'training image')} left out: in the test part too")
    if report["test_images_in_sources"]:
        seen = f"{counted(report['test_images_in_sources'], 'labelled source image')} in the target's test part too"
        lines.append(f"{target['name']}: {seen}: the score will be too good")
    if not target["labelled_test"]:
        lines.append(f"{target['name']}: no test image has a label: predictions, but no score")
    elif target["test_without_label"]:
        lines.append(
            f"{target['name']}: {counted(target['test_without_label'], 'test image')} without a label, not scored"
        )
    return lines


def _classes(domain: DomainReport, classes: list[str]) -> list[str]:
    lines = []
    if domain["dropped_classes"]:
        lines.append("classes outside the run dropped: " + _counts(domain["dropped_classes"]))
    if domain["unknown_labels"]:
        lines.append(f"labels nobody knows dropped: {unknown_names(domain['unknown_labels'])}")
    skipped = dict(domain["skipped"])
    if unlabelled := skipped.pop(UNLABELLED, 0):
        lines.append(f"{counted(unlabelled, 'sample')} without a label left out: a source needs labels")
    if loose := skipped.pop(LOOSE, 0):
        lines.append(f"{counted(loose, 'loose image')} left out: they stand beside class folders or parts")
    lines += left_out_lines(skipped) + unread_lines(domain["unread_columns"])
    lines += by_end_lines(domain["found_by_end"], domain["first_by_end"])
    if unused := domain["unused_parts"]:
        lines.append("parts that are not used: " + _counts(unused))
    absent = [name for name in classes if name not in domain["classes"]]
    if absent and domain["classes"]:
        lines.append("no sample of " + ", ".join(absent))
    return lines


def _split_lines(split: LabelSplitReport | None) -> list[str]:
    """Return what is to be said of a dataset that was divided into labelled and unlabelled samples."""
    if not split:
        return []
    counts, rule = split["counts"], f"{split['rule']} by {split['by']}, seed {split['seed']}"
    lines = [
        f"labelled {counts['labelled']} ({_counts(split['per_class'])}), unlabelled {counts['unlabelled']}: {rule}"
    ]
    if counts["left out"]:
        images = counted(counts["left out"], "unlabelled image")
        lines.append(f"{images} of labelled subjects left out; ?label_by=image keeps them")
    if split["subjects_of_test"]:
        n = split["subjects_of_test"]
        lines.append(f"{counted(n, 'image')} left unlabelled: the subject or sequence is in the test part")
    if split["short"]:
        lines.append(f"{counted(split['short'], 'label')} fewer than the rule gives: some classes have no more images")
    return lines


def _scaling_line(scaling: ScalingReport) -> str:
    """Return what is to be said of a dataset whose one-channel images are scaled to 8 bits."""
    of = "each image's own values" if str(scaling["range"]).startswith("image") else "fixed"
    colour = f", {counted(scaling['colour'], 'colour image')} unchanged" if scaling["colour"] else ""
    images = counted(scaling["one_channel"], "one-channel image")
    return f"{images} scaled to 8 bits by range={scaling['range']} ({of}){colour}"


def _unit_lines(units: UnitsReport | None) -> list[str]:
    """Return what is to be said of the action units of a run, if it has any."""
    if not units:
        return []
    lines = [f"action units: {', '.join(units['names'])} (present from {units['threshold']:g})"]
    if units["unshared"]:
        lines.append(f"action units of some domains only, left out: {', '.join(units['unshared'])}")
    for domain in units["domains"]:
        name, skipped = domain["name"], sum(domain["skipped"].values())
        if domain["without_row"]:
            images = counted(domain["without_row"], "image")
            text = f"{images} without a row of action units, {skipped} left out of training"
            lines.append(f"{name}: {text}")
        if domain["cells_without_number"]:
            cells = counted(domain["cells_without_number"], "cell")
            text = "of action units without a number: such a unit counts as its other column says, or as not shown"
            lines.append(f"{name}: {cells} {text}")
        if domain["codes"] == 1:
            lines.append(f"{name}: all images have one and the same code of action units; check data.au_threshold")
        if domain["rows_of_no_image"]:
            lines.append(f"{name}: {counted(domain['rows_of_no_image'], 'row')} of action units of none of its images")
    return lines


def _faults(domain: DomainReport) -> list[str]:
    preflight = domain["preflight"]
    lines = [_scaling_line(domain["scaling"])] if "scaling" in domain else []
    if domain["missing_files"]:
        lines.append(f"{counted(domain['missing_files'], 'listed file')} missing, first {domain['first_missing'][0]}")
    if preflight["unusable"]:
        key, reason = preflight["unusable_files"][0]
        lines.append(f"{counted(preflight['unusable'], 'unusable image')} skipped, first {key}: {reason}")
    if preflight["duplicate_groups"]:
        text = f"{preflight['duplicate_groups']} images stand there more than once, as "
        lines.append(text + _group(preflight["duplicate_files"]))
    if preflight["mislabelled_groups"]:
        dropped = "; all copies dropped" if domain.get("mislabelled_dropped") else ""
        text = f"{preflight['mislabelled_groups']} images stand there under different labels, as "
        lines.append(text + _group(preflight["mislabelled_files"]) + dropped)
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _group(groups: list[list[str]]) -> str:
    return " = ".join(groups[0][:2])
