"""What a search came to: its trials as a table, and the best settings as a file for --config."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import tomli_w

from fercore.config import merge, nested
from fercore.documents import CsvWriter, parquet_package, without_none
from fercore.errors import UserInputError
from fercore.experiments.frames import write_frame
from fercore.experiments.search_trials import STATES, Trial, Trials
from fercore.writing import write_text

BEST, TABLE, PARQUET = "best.toml", "trials.csv", "trials.parquet"
ORACLE_COLUMN: Final = "oracle (uses target labels)"


def write_records(search: Trials) -> None:
    """Write trials.csv, trials.parquet where pyarrow is installed, and the best settings, if there are any yet.

    Raises:
        WriteError: if they cannot be written.
    """
    out, records = search.study.out, trial_records(search)
    write_text(out / TABLE, trials_csv(search))
    try:
        parquet_package()
    except UserInputError:
        pass  # the CSV says the same
    else:
        write_frame(out / PARQUET, records)
    if search.best is not None:
        write_text(out / BEST, best_toml(search, search.best))


def trial_records(search: Trials) -> list[dict[str, Any]]:
    """Return a record a trial: number, state, its settings, score, and what it cost."""
    names = list(search.file.space)
    return [
        {
            "trial": trial.number,
            "state": trial.state,
            **{name: trial.settings.get(name) for name in names},
            "objective": search.file.objective,
            "score": trial.score,
            "uses_target_labels": search.uses_target_labels,
            **({ORACLE_COLUMN: trial.oracle} if search.file.oracle else {}),
            "train_seconds": trial.seconds,
            "reason": trial.reason,
        }
        for trial in search.trials()
    ]


def trials_csv(search: Trials) -> str:
    """Return the trials as CSV."""
    buffer = io.StringIO(newline="")
    writer = CsvWriter(buffer)
    records = trial_records(search)
    names = list(records[0]) if records else ["trial", "state"]
    writer.writerow(names)
    for record in records:
        writer.writerow(["" if record[name] is None else record[name] for name in names])
    return buffer.getvalue()


def best_toml(search: Trials, best: Trial) -> str:
    """Return the row's settings with those of a trial, as a file for --config; how they were found stands above."""
    file = search.study.file
    settings = merge(file.settings, file.searched.settings)
    for name, value in best.settings.items():
        settings = merge(settings, nested(name, value))
    done = sum(trial.state == "complete" for trial in search.trials())
    plugins = search.study.cell(search.row, *search.anywhere).cell.entry.plugins
    lines = [
        f"# {file.title or search.row}: trial {best.number} of {len(search.trials())}, {done} complete",
        f"# best {search.objective}: {best.score:.6f}, mean over {_runs(search)}",
        f"# fercore run --plugin {'+'.join(plugins)} --config {BEST}",
        *(["# CHOSEN ON LABELS OF THE TARGET'S TEST PART: its score there says nothing"] * search.uses_target_labels),
    ]
    preset = {} if file.preset is None else {"preset": file.preset}
    return "\n".join(lines) + "\n" + tomli_w.dumps(without_none({**preset, **settings}))


def _runs(search: Trials) -> str:
    pairs, seeds = len(search.study.file.pairs), len(search.study.file.seeds)
    return f"{pairs} pair{'s' * (pairs > 1)} and {seeds} seed{'s' * (seeds > 1)}"


def trial_rows(search: Trials, most: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the trials as text, best first.

    Args:
        most: rows; None = all.
    """
    names = list(search.file.space)
    head = ["trial", *names, search.objective, *([ORACLE_COLUMN] if search.file.oracle else []), "state"]
    ordered = sorted(search.trials(), key=_place)
    rows = []
    for trial in ordered[:most]:
        oracle = [number_text(trial.oracle)] if search.file.oracle else []
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        values = [number_text(trial.settings.get(name)) for name in names]
        rows.append([str(trial.number), *values, number_text(trial.score), *oracle, state])
    return head, rows


def _place(trial: Trial) -> tuple[bool, float, int]:
    return (trial.state != "complete", -(trial.score or 0.0), trial.number)


def number_text(value: Any) -> str:
    """Return a setting's value or a score as text of a few digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def search_notes(search: Trials) -> list[str]:
    """Return what a reader must know of a search: its end, its best, and what labels took part in."""
    trials, best, file = search.trials(), search.best, search.file
    counts = Counter(trial.state for trial in trials)
    known = [state for state in dict.fromkeys(STATES.values()) if counts[state]]
    told = ", ".join(f"{counts[state]} {state}" for state in known) or "none begun"
    lines = [f"{len(trials)} trials by {file.sampler}: {told}; each over {_runs(search)}"]
    if best is not None:
        values = ", ".join(f"{name}={number_text(value)}" for name, value in best.settings.items())
        lines.append(f"best {search.objective} {number_text(best.score)}: trial {best.number}, {values}")
    if search.uses_target_labels:
        lines.append("trials are judged by labels of the target's test part: the best one's score there is no estimate")
    if (lost := regret(search, trials, best)) is not None:
        metric = search.study.file.primary_metric
        lines.append(f"regret {100 * lost:.1f} points of {metric} to the best complete trial (uses target labels)")
    return lines


def regret(search: Trials, trials: Sequence[Trial], best: Trial | None) -> float | None:
    """Return how much the best trial's own score on the target lies under the highest one; None = not asked for."""
    own = [trial.oracle for trial in trials if trial.oracle is not None and trial.state == "complete"]
    if not search.file.oracle or best is None or best.oracle is None:
        return None
    return max(own) - best.oracle
