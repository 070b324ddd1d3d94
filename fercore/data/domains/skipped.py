"""What a dataset names and its table has not: told by every command that hands the table on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fercore.data.formats.reading.scan import NO_IMAGE, Scan, listed
from fercore.data.labels import unknown_names


def leftover_lines(scan: Scan) -> list[str]:
    """Return a line for each kind of sample that a format could not take, or left out by the dataset's own rules."""
    rows, lines = scan.rows, []
    if rows.missing:
        lines.append(f"listed files missing: {len(rows.missing)}, first {rows.missing[0]}")
    if rows.unknown:
        lines.append(
            f"labels nobody knows: {unknown_names(rows.unknown)}; images left out for it: {sum(rows.unknown.values())}"
        )
    return (
        lines + left_out_lines(rows.skipped) + unread_lines(rows.unread) + by_end_lines(len(rows.by_end), rows.by_end)
    )


def left_out_lines(reasons: Mapping[str, int]) -> list[str]:
    """Return a line for each reason why a format left samples out."""
    nouns = {reason: "files" if reason.startswith(NO_IMAGE) else "images" for reason in reasons}
    return [f"left out: {reason}; {nouns[reason]}: {n}" for reason, n in reasons.items() if n]


def by_end_lines(n: int, files: Sequence[str]) -> list[str]:
    """Return the line about listed paths that were found by their end only; none without such.

    Args:
        n: how many. files: "PATH as FILE" of the first, or more.
    """
    return [f"listed paths found by their end: {n}, first {files[0]}"] if n else []


def unread_lines(columns: Sequence[str]) -> list[str]:
    """Return the line about a table's columns that are not read; none without such."""
    return [f"columns not read: {listed(columns, len(columns))}"] if columns else []
