"""What a run looks like in a terminal: progress with time left and loss terms, tables of results."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from fercore.engine.observer import Observer
from fercore.progress import BarWatch, LineWatch, console, watch
from fercore.records.plan import StepReport
from fercore.records.result import SCORES, Result, Score, Scores, Target
from fercore.terminal import counted, printable

__all__ = [
    "BarWatch",
    "ConsoleObserver",
    "LineObserver",
    "LineWatch",
    "console",
    "leading",
    "observer_for",
    "print_lines",
    "print_result",
    "print_table",
    "target_labels",
    "watch",
]


def leading(primary_metric: Score | None) -> list[Score]:
    """Return the names of the scores, the one that leads the run's summaries first."""
    return sorted(SCORES, key=lambda name: name != primary_metric)


class LineObserver(Observer):
    """Prints plain lines on a run, a line a minute, for logs and for runs side by side.

    Args:
        label: what stands before the numbers.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._watch = self._watcher(f"{label} step")
        self._begun = False

    def _watcher(self, label: str) -> LineWatch:
        return LineWatch(label)

    def message(self, text: str) -> None:
        """Print one line."""
        console.print(printable(text), soft_wrap=True)

    def begin(self, done: int, total: int) -> None:
        """Say that training starts."""
        self._watch.begin(done, total)
        self._begun = True

    def step(self, report: StepReport, done: int) -> None:
        """Tell the loss and its terms, when it is time."""
        terms = " ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in report.terms.items())
        self._watch.advance(done, f"loss {report.total:.3f} {terms}".rstrip())

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Print the target's scores."""
        if scores.accuracy is None:
            self.message(f"{self._label} after {counted(done, 'step')}: the target has no labels, nothing to score")
            return
        text = " ".join(f"{SCORES[name]} {scores.score(name):.4f}" for name in leading(primary_metric)[:2])
        self.message(f"{self._label} after {counted(done, 'step')}: target {text} (n={scores.n})")

    def end(self) -> None:
        """Say that training is over, finished or not."""
        if self._begun:
            self._watch.end()
            self._begun = False


class ConsoleObserver(LineObserver):
    """Shows a bar on a terminal; plain lines elsewhere."""

    def _watcher(self, label: str) -> LineWatch:
        return watch(label)


def observer_for(jobs: int) -> type[LineObserver]:
    """Return what watches runs, `jobs` at a time: a bar for one, lines for several."""
    return ConsoleObserver if jobs == 1 else LineObserver


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(printable(line), soft_wrap=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    table = Table(title=printable(title), title_justify="left")
    for number, name in enumerate(header):
        table.add_column(printable(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def target_labels(result: Result) -> str:
    """Return what a summary adds where labels of the target were trained on: it is not unsupervised."""
    n = result.target.labelled.n
    return f", trained with {counted(n, 'target label')}" if n else ""


def print_result(result: Result) -> None:
    """Print a finished run's scores on the target."""
    from fercore.evaluation.label_shift import shares_lines

    target, names = result.target, leading(result.primary_metric)
    head = ("target", "n", *(SCORES[name] for name in names))
    if target.accuracy is None:
        print_lines(["the target has no labels: its predictions are in predictions.csv"])
        if target.predicted is not None:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in target.predicted.class_shares.items())
            print_lines([f"{counted(target.predicted.n, 'image')}: {shares}"])
        _print_reference(target)
        print_lines(shares_lines(target.estimated_shares))
        return
    scores = [f"{target.score(name):.4f}" for name in names]
    title = f"{'+'.join(result.plugins)}, seed {result.seed}, checkpoint '{result.selection.rule}'"
    title += f", weights averaged ({result.ema.decay})" if result.ema else ""
    title += target_labels(result)
    print_table(title, head, [(target.spec, str(target.n), *scores)])
    _print_reference(target)
    if result.initial is not None:
        before = ", ".join(f"{SCORES[name]} {result.initial.score(name):.4f}" for name in names)
        print_lines([f"the model given: {before}"])
    print_lines(shares_lines(target.estimated_shares))
    network, pace, memory = result.parameters, result.seconds_per_step, result.peak_memory_mb
    trained = f"{network.trained:,} of {network.total:,} parameters trained"
    print_lines([f"{trained}, {pace:.3f} s a step, peak memory {memory:.0f} MiB"])
    best = result.selection.oracle_best
    if best:
        text = f"oracle best {SCORES[names[0]]} {getattr(best, names[0]):.4f} at step {best.step}"
        print_lines([f"{text} (chosen on target test labels)"])


def _print_reference(target: Target) -> None:
    other = target.reference
    if other is not None and other.agreement is not None:
        name = f"{'+'.join(other.plugins)}, seed {other.seed}"
        print_lines(
            [f"the same class as the reference ({name}) for {other.agreement:.1%} of {counted(other.n, 'image')}"]
        )
