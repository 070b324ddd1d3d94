"""Several methods over several seeds in one go: the same data, the same settings, paired differences."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fercore.config import merge, parse_assignment
from fercore.engine.observer import Observer
from fercore.engine.record import CONFIG, RunFolder, without_none, write_json
from fercore.engine.run import run
from fercore.engine.setup import build_workshop
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble

METRICS = ("accuracy", "balanced_accuracy")


@dataclass(frozen=True)
class Entry:
    """One row of a comparison.

    Attributes:
        label: name of the row. plugins: in command-line order. settings: laid over the shared ones.
    """

    label: str
    plugins: tuple[str, ...]
    settings: Mapping[str, Any]


def parse_entry(text: str) -> Entry:
    """Read "[LABEL:]plugin[+plugin...] [key=value ...]".

    Raises:
        UserInputError: if no plugin is named or an assignment cannot be read.
    """
    words = text.split()
    if not words:
        raise UserInputError("empty method", where="compare", fix='write "label:plugin key=value ..."')
    label, colon, names = words[0].rpartition(":")
    settings: dict[str, Any] = {}
    for word in words[1:]:
        settings = merge(settings, parse_assignment(word))
    return Entry(label if colon else " ".join(words), tuple(names.split("+")), settings)


def compare(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    layers: Sequence[Mapping[str, Any]],
    *,
    preset: str,
    out: Path,
    observe: Callable[[str], Observer],
) -> dict[str, Any]:
    """Run every entry with every seed, going on with what `out` already holds, and summarise.

    Args:
        entries: the rows; differences are taken to the first.
        seeds: the same for every row, so that differences are paired.
        layers: shared settings, later ones win.
        preset: preset of every run.
        out: one run folder per row and seed is written below it, and compare.json.
        observe: makes an observer for a run's label.

    Returns:
        The contents of compare.json: per row the scores of every seed, mean, standard deviation, paired difference.

    Raises:
        UserInputError: for wrong input, or a folder that holds a run with other settings.
    """
    if len({entry.label for entry in entries}) < len(entries):
        raise UserInputError(
            "two rows of the comparison share a label", where="compare", fix='write "label:plugin ..."'
        )
    results: dict[str, list[dict[str, Any]]] = {entry.label: [] for entry in entries}
    for seed in seeds:
        for entry in entries:
            folder = out / f"{_slug(entry.label)}-s{seed}"
            mine = [*layers, entry.settings, {"seed": seed}]
            results[entry.label].append(_run_once(entry, mine, preset, folder, observe(f"{entry.label} seed {seed}")))
    summary = {"schema": 1, "preset": preset, "seeds": list(seeds), "rows": summarise(results)}
    write_json(out / "compare.json", summary)
    return summary


def _run_once(
    entry: Entry, layers: Sequence[Mapping[str, Any]], preset: str, folder: Path, observer: Observer
) -> dict[str, Any]:
    company = assemble(entry.plugins, layers, preset=preset)
    record = RunFolder(folder)
    resume = (folder / CONFIG).is_file()
    if resume and json.dumps(record.config_layers(), sort_keys=True) != json.dumps(
        without_none(company.config.model_dump(mode="json")), sort_keys=True
    ):
        raise UserInputError("folder holds a run with other settings", where=str(folder), fix="choose another --out")
    if resume and record.finished:
        return record.result()
    return run(build_workshop(company), folder, observer, resume=resume)


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-") or "row"


def summarise(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return one row per label: scores by seed, mean, sample standard deviation, paired difference to the first row."""
    rows: list[dict[str, Any]] = []
    for label, records in results.items():
        row: dict[str, Any] = {"label": label, "n": records[0]["target"]["n"]}
        for metric in METRICS:
            scores = [float(record["target"][metric]) for record in records]
            row[metric] = {"by_seed": scores, "mean": statistics.fmean(scores), "std": _std(scores)}
            base = rows[0][metric]["by_seed"] if rows else scores
            gaps = [score - other for score, other in zip(scores, base, strict=True)]
            row[metric]["difference"] = {"by_seed": gaps, "mean": statistics.fmean(gaps), "std": _std(gaps)}
        row["train_seconds"] = [record["train_seconds"] for record in records]
        row["peak_memory_mb"] = max(record["peak_memory_mb"] for record in records)
        rows.append(row)
    return rows


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def table_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows as text, in points (100 x share)."""
    text: list[list[str]] = []
    for row in rows:
        cells = [str(row["label"])]
        for metric in METRICS:
            cells.append(f"{_points(row[metric]['mean'])} ± {_points(row[metric]['std'])}")
            cells.append(
                f"{_points(row[metric]['difference']['mean'], '+')} ± {_points(row[metric]['difference']['std'])}"
            )
        cells.append(" ".join(_points(score) for score in row["accuracy"]["by_seed"]))
        text.append(cells)
    return text


def _points(share: float | None, sign: str = "") -> str:
    return "–" if share is None else f"{100 * share:{sign}.1f}"
