"""The trials of a search as a page of its own: their scores, which settings matter, and how the best ones lie."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence

from fercore.experiments.search_table import number_text, search_notes, trial_rows
from fercore.experiments.search_trials import Trial, Trials
from fercore.reporting.blocks import Chapter, Figure, Figures, Note, Page, Table
from fercore.reporting.html import render
from fercore.reporting.style import INKS, canvas, drawn, label, series, to_svg


def search_page_html(search: Trials) -> str:
    """Return the page of a search: one HTML file that needs no network."""
    return render(search_page(search))


def search_page(search: Trials) -> Page:
    """Return the page of a search."""
    head, rows = trial_rows(search)
    notes = search_notes(search)
    trials = Table("Trials, the best first; a score is a mean over pairs and seeds", head, rows)
    chapters = [Chapter("Trials", [Note(f"{line[0].upper()}{line[1:]}.") for line in notes])]
    if figures := list(_figures(search)):
        chapters.append(Chapter("Settings", [Figures(figures, 2)]))
    chapters.append(Chapter("All trials", [trials]))
    return Page(search.study.file.title or f"Search: {search.row}", f"By {search.objective}.", chapters)


def _figures(search: Trials) -> Iterator[Figure]:
    done = [trial for trial in search.trials() if trial.state == "complete"]
    if len({trial.score for trial in done}) < 2:
        return  # nothing tells the settings apart
    names = list(search.file.space)
    if len(names) > 1:
        importances = importlib.import_module("optuna.importance").get_param_importances(search.optuna_study)
        yield importance_bars({name: float(share) for name, share in importances.items()}, len(done))
    yield parallel_coordinates(done, names, search.objective)


@drawn
def importance_bars(importances: Mapping[str, float], trials: int) -> Figure:
    """Draw how much of the score's differences each setting explains, as Optuna estimates it."""
    order = sorted(importances, key=lambda name: importances[name])
    figure, axes = canvas(5.0, 1.2 + 0.4 * len(order))
    axes.barh([label(name) for name in order], [importances[name] for name in order], color=series(0))
    axes.set(xlabel="importance, of 1 in all")
    listed = ", ".join(f"{name} {importances[name]:.2f}" for name in reversed(order))
    reading = f"{order[-1]} matters most, as far as {trials} trials tell."
    rows = [[name, f"{importances[name]:.3f}"] for name in reversed(order)]
    numbers = Table("Importance", ("setting", "share"), rows)
    return Figure("Importance", to_svg(figure, f"Importance of settings: {listed}."), reading, numbers)


@drawn
def parallel_coordinates(trials: Sequence[Trial], names: Sequence[str], objective: str) -> Figure:
    """Draw each trial as a line through its settings and its score; the best one stands out."""
    best = max(trials, key=lambda trial: (trial.score or 0.0, -trial.number))
    columns = [[trial.settings[name] for trial in trials] for name in names]
    columns.append([trial.score for trial in trials])
    places, ticks = zip(*(_placed(column) for column in columns), strict=True)
    figure, axes = canvas(max(5.0, 1.6 * len(columns)), 3.8)
    for number, trial in sorted(enumerate(trials), key=lambda pair: pair[1] is best):
        first = trial is best
        heights = [column[number] for column in places]
        axes.plot(
            range(len(columns)), heights, color=series(1) if first else INKS["muted"], linewidth=3 if first else 1,
            alpha=1 if first else 0.6,
        )  # fmt: skip
    axes.grid(visible=False, axis="y")
    axes.set_yticks([])
    axes.set_xticks(range(len(columns)), [label(name.rpartition(".")[2]) for name in [*names, "score"]])
    for number, column in enumerate(ticks):
        for height, text in column:
            axes.annotate(label(text), (number, height), xytext=(4, 0), textcoords="offset points", fontsize=9)
    chosen = ", ".join(f"{name} {number_text(best.settings[name])}" for name in names)
    alt = f"{len(trials)} trials as lines through their settings and score; the best has {chosen}."
    reading = f"The thick line is the best trial by {objective}: {chosen}."
    return Figure("Settings and score", to_svg(figure, alt), reading)


def _placed(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return heights from 0 to 1 and (height, text) of the marks: by number, or by order where some are none."""
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values):
        known = sorted({str(value) for value in values})
        steps = max(1, len(known) - 1)
        return [known.index(str(v)) / steps for v in values], [(at / steps, name) for at, name in enumerate(known)]
    low, high = min(numbers), max(numbers)
    width = (high - low) or 1.0
    return [(number - low) / width for number in numbers], [(0.0, f"{low:.3g}"), ((high - low) / width, f"{high:.3g}")]
