"""What a run looks like in a terminal: progress with time left and loss terms, tables of results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fercore.engine.observer import Observer
from fercore.schedule import StepReport

console = Console(width=None if sys.stdout.isatty() else 132, markup=False, emoji=False, highlight=False)
"""What is printed are names, paths and settings of others: brackets and colons are no markup."""

HEADS = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro F1"}
"""Score in result.json -> what it is called in tables."""


def leading(lead: str | None) -> list[str]:
    """Return the scores of `HEADS`, the one that leads the run's summaries first."""
    return sorted(HEADS, key=lambda name: name != lead)


class ConsoleObserver(Observer):
    """Shows a progress bar with the loss terms on a terminal; plain lines elsewhere.

    Args:
        label: what stands before the bar.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = 0

    def message(self, text: str) -> None:
        """Print one line."""
        console.print(text, soft_wrap=True)

    def begin(self, done: int, total: int) -> None:
        """Start the bar."""
        self._total = total
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, TextColumn("{task.fields[terms]}", markup=False), console=console, transient=True
        )
        if console.is_terminal:
            self._progress.start()
        self._task = self._progress.add_task(self._label, total=total, completed=done, terms="")

    def step(self, report: StepReport, done: int) -> None:
        """Move the bar; off a terminal, print a line now and then."""
        terms = " ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in report.terms.items())
        if self._progress is not None:
            self._progress.update(self._task, completed=done, terms=terms)
        if not console.is_terminal and done % max(1, self._total // 5) == 0:
            self.message(f"{self._label} {done}/{self._total} total {report.total:.3f} {terms}")

    def evaluated(self, scores: Mapping[str, Any], done: int) -> None:
        """Print the target's accuracy."""
        if scores["accuracy"] is None:
            self.message(f"{self._label} after {done} steps: the target has no labels, nothing to score")
            return
        text = " ".join(f"{HEADS[name]} {scores[name]:.4f}" for name in leading(scores.get("lead"))[:2])
        self.message(f"{self._label} after {done} steps: target {text} (n={scores['n']})")

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class LineObserver(ConsoleObserver):
    """Prints plain lines and no bar, for runs side by side."""

    def begin(self, done: int, total: int) -> None:
        """Say that training starts."""
        self._total = total
        self.message(f"{self._label}: {total - done} steps to go")


def observer_for(jobs: int) -> type[ConsoleObserver]:
    """Return what watches runs, `jobs` at a time: a bar for one, lines for several."""
    return ConsoleObserver if jobs == 1 else LineObserver


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def target_labels(record: Mapping[str, Any]) -> str:
    """Return what a summary adds where labels of the target were trained on, so that nobody takes it for unsupervised.

    Args:
        record: contents of result.json.
    """
    found = record["target"].get("labelled") or {"n": 0}
    return f", trained with {found['n']} target labels" if found["n"] else ""


def print_result(record: Mapping[str, Any]) -> None:
    """Print a finished run's scores on the target."""
    target = record["target"]
    names = leading(record.get("lead"))
    head = ("target", "n", *(HEADS[name] for name in names))
    if target["accuracy"] is None:
        print_lines(["the target has no labels: its predictions are in predictions.csv"])
        return
    scores = [f"{target[name]:.4f}" for name in names]
    title = f"{'+'.join(record['plugins'])}, seed {record['seed']}, checkpoint '{record['selection']['rule']}'"
    title += f", weights averaged ({record['ema']['decay']})" if record.get("ema") else ""
    title += target_labels(record)
    print_table(title, head, [(target["spec"], str(target["n"]), *scores)])
    network, pace = record["parameters"], record["seconds_per_step"]
    print_lines([f"{network['trained']:,} of {network['total']:,} parameters trained, {pace:.3f} s a step"])
    oracle = record["selection"]["oracle_best"]
    if oracle:
        best = f"oracle best {HEADS[names[0]]} {oracle[names[0]]:.4f} at step {oracle['step']}"
        print_lines([f"{best} (chosen on target test labels)"])
