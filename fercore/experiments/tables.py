"""The table of a study: methods down, pairs of domains across, with differences, ranks and significance.

Every number is a share here and in points (100 x share) in text.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from fercore.datasets.published import published_tables
from fercore.documents import CsvWriter
from fercore.errors import UserInputError, did_you_mean
from fercore.evaluation.metrics import REPLICATES, number_units, sums_of
from fercore.experiments import statistics as tests
from fercore.experiments.statistics import Difference, Run
from fercore.experiments.study import Study
from fercore.records.result import SCORES, Result, Score
from fercore.runs.folder import TEST_LABELS
from fercore.runs.predictions import read_predictions, read_test_labels

Spread: TypeAlias = Literal["std", "interval"]
SIGNIFICANT = 0.05
DASH = "–"
FLAGGED = "†"
"""Marks a cell whose training used labels of the target."""


@dataclass(frozen=True)
class Entry:
    """A method on a pair.

    Attributes:
        by_seed: shares of the seeds that are finished. n: labelled test images. target_labels: trained on, 0 = none.
        wanted: seeds in all. reason: why one failed, "" = none did. difference: to the reference; None = unknown.
    """

    by_seed: tuple[float, ...]
    n: int
    target_labels: int
    wanted: int
    reason: str = ""
    difference: Difference | None = None

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None of none."""
        return statistics.fmean(self.by_seed) if self.by_seed else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None of fewer than two seeds."""
        return statistics.stdev(self.by_seed) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class StudyTable:
    """What `fercore table` prints.

    Attributes:
        metric: score. seeds: of the study. reference: label. methods, pairs: in the file's order.
        entries: (method, pair) -> its cell. average, rank: of methods that every pair has; others have none.
        wilcoxon: method -> p over pairs against the reference, after Holm's correction. friedman: p; None = unknown.
        critical_difference: of average ranks, None of fewer than two methods or pairs.
        published: (paper's row, pair) -> share that it states; never part of a mean. sources: of them, in words.
        title: of the study, "" = none.
    """

    metric: Score
    seeds: tuple[int, ...]
    reference: str
    methods: tuple[str, ...]
    pairs: tuple[str, ...]
    entries: Mapping[tuple[str, str], Entry]
    average: Mapping[str, float]
    rank: Mapping[str, float]
    wilcoxon: Mapping[str, float | None]
    friedman: float | None
    critical_difference: float | None
    published: Mapping[tuple[str, str], float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    title: str = ""

    @property
    def published_rows(self) -> tuple[str, ...]:
        """Names of the paper's rows."""
        return tuple(dict.fromkeys(row for row, _ in self.published))

    def best(self, pair: str | None) -> tuple[float | None, float | None]:
        """Return the best and the second best measured mean of a column; None = of the averages."""
        if pair is None:
            means = list(self.average.values())
        else:
            means = [mean for name in self.methods if (mean := self.entries[name, pair].mean) is not None]
        ordered = sorted(set(means), reverse=True)
        return (ordered[0] if ordered else None), (ordered[1] if len(ordered) > 1 else None)


def study_table(
    study: Study, *, metric: str | None = None, published: bool = False, replicates: int = REPLICATES
) -> StudyTable:
    """Return the table of what is finished of a study; cells that are missing are left empty.

    Args:
        metric: score; None = the study's. published: whether the numbers of the study's paper stand beside.
        replicates: of the bootstrap.

    Raises:
        UserInputError: for an unknown score, a run whose records are damaged, or a study without a paper.
    """
    file = study.file
    chosen = metric or file.primary_metric
    score = next((name for name in SCORES if name == chosen), None)
    if score is None:
        raise UserInputError(f"unknown score {chosen!r}", where="--metric", fix=did_you_mean(chosen, SCORES))
    methods, pairs = tuple(row.name for row in file.methods), tuple(pair.name for pair in file.pairs)
    records = _Records(study, score, replicates)
    entries = _corrected({(name, pair): records.entry(name, pair) for name in methods for pair in pairs})
    # Averages and ranks are of methods that every pair has: of others they would not be of the same pairs.
    whole = {
        name: means
        for name in methods
        if len(means := [mean for pair in pairs if (mean := entries[name, pair].mean) is not None]) == len(pairs)
    }
    many = len(whole) > 1 and len(pairs) > 1
    return StudyTable(
        score,
        file.seeds,
        file.reference_label,
        methods,
        pairs,
        entries,
        {name: statistics.fmean(means) for name, means in whole.items()},
        tests.average_ranks(whole) if len(whole) > 1 else {},
        _wilcoxon(whole, file.reference_label),
        tests.friedman(whole),
        tests.critical_difference(len(whole), len(pairs)) if many else None,
        *(_published(study, score) if published else ({}, ())),
        title=file.title,
    )


def _published(study: Study, score: Score) -> tuple[dict[tuple[str, str], float], tuple[str, ...]]:
    """Return what the study's paper states of its pairs, and where."""
    paper, pairs = study.file.paper, {pair.name for pair in study.file.pairs}
    if not paper:
        what, fix = "the study names no paper whose numbers could stand beside", "leave --published out"
        raise UserInputError(what, where=str(study.out), fix=fix)
    tables = [table for table in published_tables(paper) if table.metric == score]
    values = {
        (name, pair): value
        for table in tables
        for name, cells in table.rows.items()
        for pair, value in zip(table.pairs, cells, strict=True)
        if value is not None and pair in pairs
    }
    told = [f"{table.source}; {table.backbone}; checkpoint: {table.selection}" for table in tables]
    return values, tuple(told)


def _wilcoxon(whole: Mapping[str, Sequence[float]], reference: str) -> dict[str, float | None]:
    """Return method -> p over pairs against the reference, after Holm's correction."""
    if reference not in whole:
        return {}
    raw = {name: tests.wilcoxon(means, whole[reference]) for name, means in whole.items() if name != reference}
    return dict(zip(raw, tests.holm(list(raw.values())), strict=True))


class _Records:
    """What the cells of a study recorded, read once.

    Args:
        study: the study. score: of the table. replicates: of the bootstrap.
    """

    def __init__(self, study: Study, score: Score, replicates: int) -> None:
        self._study, self._score, self._replicates = study, score, replicates
        self._results, self._reasons = study.results(), study.status().reasons
        self._runs: dict[tuple[str, str, int], Run | None] = {}

    def entry(self, method: str, pair: str) -> Entry:
        """Return a method's cell of a pair."""
        seeds, reference = self._study.file.seeds, self._study.file.reference_label
        own = {seed: self._results[method, pair, seed] for seed in seeds if (method, pair, seed) in self._results}
        reasons = [self._reasons[key] for seed in seeds if (key := (method, pair, seed)) in self._reasons]
        common = [seed for seed in own if (reference, pair, seed) in self._results]
        return Entry(
            tuple(value for result in own.values() if (value := result.target.score(self._score)) is not None),
            max((result.target.n for result in own.values()), default=0),
            max((result.target.labelled.n for result in own.values()), default=0),
            len(seeds),
            reasons[0] if reasons else "",
            self._difference(method, reference, pair, common) if method != reference and common else None,
        )

    def _difference(self, method: str, reference: str, pair: str, seeds: Sequence[int]) -> Difference | None:
        usable = []
        for seed in seeds:
            one, other = self._run((method, pair, seed)), self._run((reference, pair, seed))
            if one is None or other is None or one.units != other.units:
                return None  # the difference of other images is not paired
            usable.append((one, other))
        return tests.paired_bootstrap(usable, self._score, replicates=self._replicates)

    def _run(self, key: tuple[str, str, int]) -> Run | None:
        """Return what a cell recorded of its test images; None of a run of earlier versions, which record no truth."""
        if key not in self._runs:
            folder = self._study.folder(*key)
            there = (folder / TEST_LABELS).is_file()
            self._runs[key] = _run(folder, self._results[key]) if there else None
        return self._runs[key]


def _run(folder: Path, result: Result) -> Run:
    truth, rows = read_test_labels(folder), read_predictions(folder, result.target.classes).of("test")
    place = {image: at for at, image in enumerate(rows.images)}
    images = [image for image in truth if image in place]
    subjects = [truth[image][0] for image in images]
    units, kind = number_units(subjects)
    name_of = {int(unit): name for unit, name in zip(units, subjects if kind == "subject" else images, strict=True)}
    labels = np.array([rows.classes.index(truth[image][1]) for image in images])
    sums = sums_of(rows.probs[[place[image] for image in images]], labels, units)
    return Run(tuple(name_of[unit] for unit in range(len(name_of))), sums)


def _corrected(entries: Mapping[tuple[str, str], Entry]) -> dict[tuple[str, str], Entry]:
    """Return the entries with Holm's correction over all differences of the table."""
    keys = [key for key, entry in entries.items() if entry.difference is not None]
    adjusted = tests.holm([difference.p for key in keys if (difference := entries[key].difference) is not None])
    corrected = dict(entries)
    for key, p in zip(keys, adjusted, strict=True):
        difference = entries[key].difference
        if difference is not None:
            corrected[key] = replace(entries[key], difference=replace(difference, adjusted=p))
    return corrected


Kind: TypeAlias = Literal["plain", "best", "second", "published"]


@dataclass(frozen=True)
class Cell:
    """A cell as text.

    Attributes:
        kind: best and second of the measured means of its column, or a paper's own.
    """

    text: str
    kind: Kind = "plain"


def points(share: float | None, sign: str = "") -> str:
    """Return a share in points, or a dash."""
    return DASH if share is None else f"{100 * share:{sign}.1f}"


def entry_text(entry: Entry, spread: Spread) -> str:
    """Return a cell: mean, spread, and its flags: labels of the target, significance, seeds that are missing."""
    if entry.mean is None:
        return "failed" if entry.reason else DASH
    text = points(entry.mean)
    if spread == "std" and entry.std is not None:
        text += f" ± {points(entry.std)}"
    elif spread == "interval" and (ends := tests.seed_interval(entry.by_seed)) is not None:
        text += f" [{points(ends[0])}, {points(ends[1])}]"
    text += FLAGGED if entry.target_labels else ""
    p = None if entry.difference is None else entry.difference.adjusted
    text += "*" if p is not None and p < SIGNIFICANT else ""
    return text if len(entry.by_seed) == entry.wanted else f"{text} ({len(entry.by_seed)}/{entry.wanted} seeds)"


def grid(table: StudyTable, spread: Spread) -> tuple[list[str], list[list[Cell]]]:
    """Return head and rows: methods, then a paper's own; with several pairs also the average and the average rank."""
    many = len(table.pairs) > 1
    rows = []
    for name in table.methods:
        cells = [Cell(name)]
        for pair in table.pairs:
            entry = table.entries[name, pair]
            cells.append(Cell(entry_text(entry, spread), _kind(entry.mean, table.best(pair))))
        if many:
            mean, rank = table.average.get(name), table.rank.get(name)
            cells.append(Cell(points(mean), _kind(mean, table.best(None))))
            cells.append(Cell(DASH if rank is None else f"{rank:.2f}"))
        rows.append(cells)
    for name in table.published_rows:
        numbers = [table.published.get((name, pair)) for pair in table.pairs]
        texts = [name, *(points(number) for number in numbers), *([DASH] * 2 if many else [])]
        rows.append([Cell(text, "published") for text in texts])
    return ["method", *table.pairs, *(["average", "rank"] if many else [])], rows


def _kind(mean: float | None, best: tuple[float | None, float | None]) -> Kind:
    if mean is None or best[1] is None:
        return "plain"
    return "best" if mean == best[0] else "second" if mean == best[1] else "plain"


def notes(table: StudyTable, spread: Spread) -> list[str]:
    """Return what a reader must know: n, seeds, what stands for what, and how significance was tested."""
    sizes = {pair: max(table.entries[name, pair].n for name in table.methods) for pair in table.pairs}
    spread_text = "mean ± sample standard deviation" if spread == "std" else "mean and 95 % Student interval"
    lines = [
        f"{SCORES[table.metric]}, in points; {spread_text} over seeds {', '.join(map(str, table.seeds))}",
        "test images: " + ", ".join(f"{pair} {n}" for pair, n in sizes.items()),
    ]
    if any(entry.difference is not None for entry in table.entries.values()):
        lines.append(
            f"*: differs from {table.reference}, p < {SIGNIFICANT} (paired bootstrap over subjects or images and "
            "seeds, Holm's correction over the table)"
        )
    if any(entry.target_labels for entry in table.entries.values()):
        lines.append(f"{FLAGGED}: trained with labels of the target")
    known = {name: p for name, p in table.wilcoxon.items() if p is not None}
    if known:
        told = ", ".join(f"{name} {p:.3f}" for name, p in known.items())
        lines.append(f"Wilcoxon signed ranks over pairs against {table.reference}, p after Holm: {told}")
    if table.friedman is not None and table.critical_difference is not None:
        lines.append(
            f"Friedman p {table.friedman:.3f}; critical difference of average ranks {table.critical_difference:.2f}"
        )
    failed = {f"{name} on {pair}": entry.reason for (name, pair), entry in table.entries.items() if entry.reason}
    lines += [f"failed: {where}: {reason}" for where, reason in failed.items()]
    if table.published:
        lines.append("rows in another style are the paper's own numbers; they are part of no average and no rank")
        lines += [f"published: {source}" for source in table.sources]
    return lines


MARKDOWN: Final[Mapping[Kind, str]] = {"plain": "{}", "best": "**{}**", "second": "<u>{}</u>", "published": "*{}*"}
LATEX: Final[Mapping[Kind, str]] = {
    "plain": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "published": r"\textit{{{}}}"
}  # fmt: skip
LATEX_SIGNS: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "→": r"$\rightarrow$", DASH: "--",
    FLAGGED: r"$^{\dagger}$", "±": r"$\pm$", "*": "$^{*}$",
}  # fmt: skip


def markdown(table: StudyTable, spread: Spread) -> str:
    """Return the table in Markdown."""
    head, rows = grid(table, spread)
    title = [f"## {_markdown_text(table.title)}", ""] if table.title else []
    lines = [*title, _pipes(map(_markdown_text, head)), _pipes(["---", *["---:"] * (len(head) - 1)])]
    lines += [_pipes(MARKDOWN[cell.kind].format(_markdown_text(cell.text)) for cell in row) for row in rows]
    return "\n".join([*lines, "", *(f"- {_markdown_text(line)}" for line in notes(table, spread)), ""])


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", text)


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex_text(text: str) -> str:
    """Return a text whose signs LaTeX takes for themselves."""
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def latex(table: StudyTable, spread: Spread) -> str:
    """Return the table in LaTeX, for a document with the package booktabs."""
    head, rows = grid(table, spread)
    body = [" & ".join(LATEX[cell.kind].format(latex_text(cell.text)) for cell in row) + r" \\" for row in rows]
    if table.published_rows:
        body.insert(len(table.methods), r"\midrule")
    sentences = [line[0].upper() + line[1:] for line in [*filter(None, [table.title]), *notes(table, spread)]]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex_text, head)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{latex_text('. '.join(sentences))}.}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


COLUMNS: Final = (
    "method", "pair", "metric", "seeds", "mean", "std", "low", "high", "n", "target_labels", "difference",
    "difference_low", "difference_high", "p", "p_holm", "by_seed", "failed", "published",
)  # fmt: skip


def long_rows(table: StudyTable) -> list[dict[str, Any]]:
    """Return a record a cell, as the CSV has them; shares, not points."""
    records: list[dict[str, Any]] = []
    for (name, pair), entry in table.entries.items():
        ends, gap = tests.seed_interval(entry.by_seed), entry.difference
        records.append(
            {
                "method": name, "pair": pair, "metric": table.metric, "seeds": len(entry.by_seed), "mean": entry.mean,
                "std": entry.std, "low": ends and ends[0], "high": ends and ends[1], "n": entry.n,
                "target_labels": entry.target_labels, "difference": gap and gap.mean, "difference_low": gap and gap.low,
                "difference_high": gap and gap.high, "p": gap and gap.p, "p_holm": gap and gap.adjusted,
                "by_seed": " ".join(f"{score:.6f}" for score in entry.by_seed), "failed": entry.reason, "published": 0,
            }
        )  # fmt: skip
    for (name, pair), number in table.published.items():
        records.append({"method": name, "pair": pair, "metric": table.metric, "mean": number, "published": 1})
    return records


def csv_text(table: StudyTable) -> str:
    """Return the table as CSV, a line a cell."""
    buffer = io.StringIO(newline="")
    writer = CsvWriter(buffer)
    writer.writerow(COLUMNS)
    for record in long_rows(table):
        values = [record.get(name) for name in COLUMNS]
        writer.writerow(
            ["" if value is None else f"{value:.6f}" if isinstance(value, float) else value for value in values]
        )
    return buffer.getvalue()


FORMATS: Final[Mapping[str, Callable[[StudyTable, Spread], str]]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": lambda table, spread: csv_text(table),
}
