"""Several methods over several seeds in one go: the same data, the same settings, paired differences."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from fercore.documents import Shape, misfit, parse_json
from fercore.engine.observer import Observer
from fercore.errors import UserInputError, reason_of
from fercore.experiments.cells import Cell, Entry, check_cells, folder_of, refuse_other_data, run_cells, slug
from fercore.experiments.source_model import (
    BASELINE,
    LABEL,
    method_layers,
    refuse_source_model,
    source_cell,
    take_source,
)
from fercore.files import read_text
from fercore.isolation import apart
from fercore.records.result import SCORES, Result, Score
from fercore.stopping import Interrupted, number_of
from fercore.writing import write_json

COMPARE = "compare.json"


class Spread(Shape):
    """Numbers by seed, their mean and sample standard deviation (None for one seed)."""

    by_seed: list[float]
    mean: float
    std: float | None


class Compared(Spread):
    """A score of a row, and its paired difference to the first row's."""

    difference: Spread


class Row(Shape):
    """A method of a comparison.

    Attributes:
        n: labelled test images. accuracy, balanced_accuracy, macro_f1: None where a seed's test part has no label.
        target_labels: labels of the target that were trained on.
        train_seconds: by seed. peak_memory_mb: the most of any seed, MiB.
    """

    label: str
    n: int
    accuracy: Compared | None
    balanced_accuracy: Compared | None
    macro_f1: Compared | None
    target_labels: int
    train_seconds: list[float]
    peak_memory_mb: float


class Comparison(Shape):
    """The contents of compare.json.

    Attributes:
        target: its SPEC, or which preset has it. primary_metric: the score that the table gives first.
    """

    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    schema_: int = Field(1, alias="schema")
    preset: str
    target: str
    seeds: list[int]
    primary_metric: Score
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """Return the values that compare.json holds."""
        return self.model_dump(by_alias=True)

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return head and rows of the table as text, in points."""
        return table_head(self.primary_metric), table_rows(self.rows, self.primary_metric)

    @property
    def scored(self) -> bool:
        """Whether the target has labels to score by."""
        return all(getattr(row, name) is not None for row in self.rows for name in SCORES)


def compare(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    layers: Sequence[Mapping[str, Any]],
    *,
    preset: str,
    out: Path,
    observe: Callable[[str], Observer],
    jobs: int = 1,
    pretrain_source: int | None = None,
) -> Comparison:
    """Run every entry with every seed, going on with what `out` already holds, and summarise.

    Args:
        entries: the rows; differences are taken to the first.
        seeds: the same for every row, so that differences are paired.
        layers: shared settings, later ones win.
        preset: preset of every run.
        out: one run folder per row and seed is written below it, and compare.json.
        observe: makes an observer for a run's label; must be importable, as every run has a process of its own.
        jobs: runs at a time; several have equal shares of the CPU threads.
        pretrain_source: steps of a source model that every row starts from, one a seed; it is the last row, `source`.

    Returns:
        What compare.json holds: per row the scores of every seed, mean, standard deviation, paired difference.

    Raises:
        UserInputError: for wrong input, or a folder that holds a run with other settings or of other data.
        Interrupted: for a signal; says how to go on.
    """
    rows = [*entries, *([Entry(LABEL, (BASELINE,), {})] if pretrain_source is not None else [])]
    # By folder name, not by label: "a b" and "a-b" would train in one folder.
    if len({slug(entry.label) for entry in rows}) < len(rows):
        fix = 'write "label:plugin ..."'
        raise UserInputError("two rows of the comparison share a label", where="compare", fix=fix)
    if len(set(seeds)) < len(seeds):
        raise UserInputError(f"a seed is given twice: {list(seeds)}", where="--seeds", fix="one run a seed and row")
    cells, models = _cells(entries, seeds, layers, preset, out, pretrain_source)
    results: dict[str, list[Result]] = {entry.label: [] for entry in rows}
    try:
        check_cells([*cells, *models] if models else [], jobs)
        takes = [(cell.label, partial(take_source, cell, out, observe)) for cell in models]
        if models:
            results[LABEL] = list(apart(takes, jobs=jobs))
        for cell, record in zip(cells, run_cells(cells, observe, jobs), strict=True):
            results[cell.entry.label].append(record)
    except KeyboardInterrupt as stop:
        again = f"the same command with --out {shlex.quote(str(out))} goes on"
        raise Interrupted(number_of(stop), f"interrupted; {again}") from None
    # After all have run: folders that were there already are compared with those of today.
    refuse_other_data([*cells, *models])
    primary_metric = leading_score(results)
    targets = [layer["data"]["target"] for layer in layers if "target" in layer.get("data", {})]
    target = str(targets[-1]) if targets else f"of preset {preset}"
    comparison = Comparison(
        preset=preset, target=target, seeds=list(seeds), primary_metric=primary_metric, rows=summarise(results)
    )
    write_json(out / COMPARE, comparison.to_json())
    return comparison


def _cells(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    layers: Sequence[Mapping[str, Any]],
    preset: str,
    out: Path,
    pretrain_source: int | None,
) -> tuple[list[Cell], list[Cell]]:
    """Return the runs of the rows, seed by seed, and those of the source models that they start from, if any."""
    cells: list[Cell] = []
    models: list[Cell] = []
    if pretrain_source is not None:
        refuse_source_model(pretrain_source, [*layers, *(entry.settings for entry in entries)])
    for seed in seeds:
        start = None
        if pretrain_source is not None:
            start = folder_of(out, LABEL, seed)
            seeded = [*layers, {"seed": seed}]
            models.append(source_cell(seeded, pretrain_source, preset, start, f"{LABEL} seed {seed}"))
        for entry in entries:
            beside = [] if start is None else method_layers(entry.plugins)
            own = (*layers, *beside, entry.settings, {"seed": seed})
            folder = folder_of(out, entry.label, seed)
            cells.append(Cell(entry, own, preset, folder, f"{entry.label} seed {seed}", start))
    return cells, models


def read_comparison(out: Path) -> Comparison:
    """Return the contents of compare.json.

    Raises:
        UserInputError: if it cannot be read or is not what a comparison writes.
    """
    path, fix = out / COMPARE, "bring it back as it was, or give the command of the comparison again"
    try:
        values = parse_json(read_text(path), where=str(path))
    except UserInputError:
        raise
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {COMPARE}: {reason_of(error)}", where=str(path), fix=fix) from None
    fault = misfit(values, Comparison)
    if not fault and not (values["rows"] and all(_fits(row, len(values["seeds"])) for row in values["rows"])):
        fault = "rows: a score for every seed is wanted"
    if fault:
        raise UserInputError(f"{COMPARE} is damaged: {fault}", where=str(path), fix=fix)
    return Comparison.model_validate(values)


def _fits(row: Mapping[str, Any], seeds: int) -> bool:
    scores = [row[name] for name in SCORES if row[name] is not None]
    return seeds > 0 and all(len(s["by_seed"]) == len(s["difference"]["by_seed"]) == seeds for s in scores)


def summarise(results: Mapping[str, Sequence[Result]]) -> list[Row]:
    """Return one row per label: scores by seed, mean, sample standard deviation, paired difference to the first row."""
    rows: list[Row] = []
    first = next(iter(results.values()))
    for label, records in results.items():
        rows.append(
            Row(
                label=label,
                n=records[0].target.n,
                **{metric: _compared(_scores(records, metric), _scores(first, metric)) for metric in SCORES},
                target_labels=records[0].target.labelled.n,
                train_seconds=[record.train_seconds for record in records],
                peak_memory_mb=max(record.peak_memory_mb for record in records),
            )
        )
    return rows


def _scores(records: Sequence[Result], metric: Score) -> list[float] | None:
    """Return the score of every seed; None where one has nothing to score."""
    scores = [record.target.score(metric) for record in records]
    return None if None in scores else scores  # type: ignore[return-value]


def _compared(scores: list[float] | None, base: list[float] | None) -> Compared | None:
    if scores is None or base is None:
        return None
    gaps = [score - other for score, other in zip(scores, base, strict=True)]
    difference = Spread(by_seed=gaps, mean=statistics.fmean(gaps), std=_std(gaps))
    return Compared(by_seed=scores, mean=statistics.fmean(scores), std=_std(scores), difference=difference)


def _std(values: Sequence[float]) -> float | None:
    # Of a sample: seeds are a few of many.
    return statistics.stdev(values) if len(values) > 1 else None


def leading_score(results: Mapping[str, Sequence[Result]]) -> Score:
    """Return which score the table gives first: what a row's runs lead with, if it is not accuracy."""
    # Methods may lead with different scores; the rarer choice says more about the task than the default does.
    named = {record.primary_metric for records in results.values() for record in records}
    return next((name for name in reversed(SCORES) if name in named), "accuracy")


def table_head(primary_metric: Score) -> tuple[str, ...]:
    """Return the names of the columns of `table_rows`."""
    columns = [SCORES[name] for name in _shown(primary_metric)]
    return ("method", *(text for name in columns for text in (name, "difference")), f"{columns[0]} by seed")


def _shown(primary_metric: Score) -> list[Score]:
    """Return the score that leads, and accuracy and balanced accuracy, which every table has."""
    always: tuple[Score, ...] = ("accuracy", "balanced_accuracy")
    return [primary_metric, *(name for name in always if name != primary_metric)]


def table_rows(rows: Sequence[Row], primary_metric: Score = "accuracy") -> list[list[str]]:
    """Return the rows as text, in points (100 x share); the score that leads comes first."""
    text: list[list[str]] = []
    for row in rows:
        cells = [row.label]
        for metric in _shown(primary_metric):
            score: Compared | None = getattr(row, metric)
            if score is None:
                cells += ["–", "–"]
                continue
            gap = score.difference
            cells.append(f"{_points(score.mean)} ± {_points(score.std)}")
            cells.append(f"{_points(gap.mean, '+')} ± {_points(gap.std)}")
        lead: Compared | None = getattr(row, primary_metric)
        cells.append("–" if lead is None else " ".join(_points(score) for score in lead.by_seed))
        text.append(cells)
    return text


def _points(share: float | None, sign: str = "") -> str:
    return "–" if share is None else f"{100 * share:{sign}.1f}"
