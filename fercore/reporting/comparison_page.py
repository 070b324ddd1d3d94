"""The report of a comparison: its rows side by side, then each by its first seed in detail, beside the first row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fercore.engine.resume import differences
from fercore.errors import UserInputError
from fercore.evaluation.metrics import class_scores
from fercore.experiments.cells import folder_of
from fercore.experiments.comparison import Comparison, read_comparison
from fercore.records.result import SCORES
from fercore.reporting import figures
from fercore.reporting.blocks import Block, Chapter, Figure, Figures, Heading, Note, Page, Table
from fercore.reporting.collect import RunFiles
from fercore.reporting.run_page import View, about, beside, chapters_of, command, view_of
from fercore.runs.predictions import AGAIN


def comparison_page(out: Path, points: int, faces: int) -> Page:
    """Return the page of a comparison.

    Args:
        out: its folder. points: images of each side in a t-SNE, shared among the rows. faces: as in `View`.

    Raises:
        UserInputError: if it, or a run of it, is not what a comparison writes.
    """
    comparison = read_comparison(out)
    runs = [[RunFiles(folder_of(out, row.label, seed)) for seed in comparison.seeds] for row in comparison.rows]
    classes = runs[0][0].classes
    if any(run.classes != classes or (run.confusion is None) == comparison.scored for row in runs for run in row):
        raise UserInputError("its runs have not the same classes, or not the scores", where=str(out), fix=AGAIN)
    many = max(1, len(runs) - 2)  # the page stays under 5 MB
    details: list[Chapter] = []
    first: View | None = None
    for number, (row, (run, *_)) in enumerate(zip(comparison.rows, runs, strict=True), 1):
        view = replace(view_of(run.path, max(100, points // many), -(-faces // many)), name=row.label)
        first = first or view
        lead = f"Seed {comparison.seeds[0]} in detail" + (f", beside {first.name}." if view is not first else ".")
        details.append(Chapter(f"{number}. {row.label}", list(_detail(beside(view, first))), lead))
    seeds = ", ".join(map(str, comparison.seeds))
    lead = f"Adapted to {runs[0][0].result.target.spec}; preset {comparison.preset}, seeds {seeds}."
    figures_of_scores = [Figures(list(_overview(comparison, runs)), 2)] if comparison.scored else []
    overview = Chapter("Rows side by side", [_table(comparison), *figures_of_scores])
    title = f"{len(runs)} methods compared" if len(runs) > 1 else "One method over seeds"
    return Page(
        title, lead, [overview, *details, Chapter("The runs", list(_about(comparison, [row[0] for row in runs])))]
    )


def _detail(view: View) -> Iterator[Block]:
    for chapter in chapters_of(view):
        yield Heading(chapter.title)
        if chapter.lead:
            yield Note(chapter.lead)
        yield from chapter.blocks


def _table(comparison: Comparison) -> Table:
    head, rows = comparison.table()
    return Table("Mean ± standard deviation over the seeds, in points; paired differences to the first row", head, rows)


def _overview(comparison: Comparison, runs: Sequence[Sequence[RunFiles]]) -> Iterator[Figure]:
    names = sorted(SCORES, key=lambda name: name != comparison.primary_metric)
    for name in names:
        title = name.replace("_", " ").replace("f1", "F1")
        yield figures.boxes(title, {row.label: getattr(row, name).by_seed for row in comparison.rows}, comparison.seeds)
        if others := {row.label: getattr(row, name).difference.by_seed for row in comparison.rows[1:]}:
            yield figures.paired_differences(title, others, comparison.rows[0].label, comparison.seeds)
    recall = {}
    for row, own in zip(comparison.rows, runs, strict=True):
        matrices = np.array([run.confusion for run in own])
        values = class_scores(matrices)[0].mean(axis=0)
        # A class without a test image has no recall; 0 would read as a failure.
        recall[row.label] = np.where(matrices.sum(axis=(0, 2)) > 0, values, np.nan)
    yield figures.recall_by_row(recall, runs[0][0].classes)


def _about(comparison: Comparison, runs: Sequence[RunFiles]) -> Iterator[Block]:
    rows = [[row.label, command(run)] for row, run in zip(comparison.rows, runs, strict=True)]
    yield Table("Run a row again (its first seed)", ("method", "command"), rows, numbers=False)
    head = ("method", "steps", "s a step", "memory, MiB", "parameters", "of them trained")
    costs = [
        [
            row.label,
            str((result := run.result).steps),
            f"{result.seconds_per_step:.3f}",
            f"{result.peak_memory_mb:.0f}",
            f"{result.parameters.total:,}",
            f"{result.parameters.trained:,}",
        ]
        for row, run in zip(comparison.rows, runs, strict=True)
    ]
    yield Table("What a row takes (its first seed)", head, costs)
    base = {"plugin": runs[0].result.plugins, **runs[0].settings}
    for row, run in zip(comparison.rows[1:], runs[1:], strict=True):
        changed = differences(base, {"plugin": run.result.plugins, **run.settings})
        cells = [[name, _shown(was), _shown(now)] for name, (was, now) in changed.items()]
        title = f"Settings of {row.label} that are not those of {comparison.rows[0].label}"
        yield Table(title, ("setting", comparison.rows[0].label, row.label), cells, numbers=False, folded=True)
    yield Heading(comparison.rows[0].label)
    yield from about(runs[0])


def _shown(value: object) -> str:
    return "–" if value is None else str(value)
