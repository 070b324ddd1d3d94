"""Figures of one run. Each has an alternative text that says what is to be seen, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fercore.evaluation.metrics import BINS
from fercore.reporting.blocks import Figure, Table
from fercore.reporting.measures import Reliability
from fercore.reporting.style import INKS, canvas, drawn, label, series, to_svg
from fercore.terminal import counted

FEW_SEEDS = 5
"""Seeds below which quartiles are no more than the values themselves."""
MARKS = "osD^vP*X"
"""Shapes, so that no two series are told apart by colour alone."""


@drawn
def confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix int[K,K], whose rows are the truth."""
    k, support = len(classes), confusion.sum(axis=1)
    figure = _matrix(confusion, classes, "true", "predicted")
    mistakes = confusion - np.diag(np.diagonal(confusion))
    row, column = divmod(int(mistakes.argmax()), k)
    worst = f"Most frequent mistake: {classes[row]} taken for {classes[column]}, {mistakes[row, column]} times."
    worst = worst if mistakes.any() else "No mistakes."
    images = counted(support.sum(), "image")
    alt = f"Confusion matrix of {images} in {k} classes, {np.trace(confusion)} of them right. {worst}"
    rows = [[name, *map(str, line), str(sum(line))] for name, line in zip(classes, confusion.tolist(), strict=True)]
    reading = f"Rows are the truth, columns what the model says; a stronger cell is a larger share of its row. {worst}"
    table = Table("Images, true class by predicted class", ("true", *classes, "n"), rows)
    return Figure("Confusion matrix", to_svg(figure, alt), reading, table)


@drawn
def changes(counts: np.ndarray, classes: Sequence[str], other: str) -> Figure:
    """Draw which classes another model and this one take the same images for: int[K,K], rows are the other's."""
    k, n = len(classes), int(counts.sum())
    figure = _matrix(counts, classes, f"by {label(other)}", "by this run")
    moved = counts - np.diag(np.diagonal(counts))
    row, column = divmod(int(moved.argmax()), k)
    most = f"Most often {classes[row]} became {classes[column]}, {counted(int(moved[row, column]), 'time')}."
    most = most if moved.any() else "No image changed its class."
    alt = (
        f"Classes of {counted(n, 'image')} by {other} and by this run, the same for {np.trace(counts)} of them. {most}"
    )
    rows = [[name, *map(str, line), str(sum(line))] for name, line in zip(classes, counts.tolist(), strict=True)]
    reading = (
        f"Off the diagonal are the images that adaptation moved; without labels nothing says whether it was right to. "
        f"A column that all rows flow into is a class that swallows others. {most}"
    )
    table = Table(f"Images, class by {other} (rows) and by this run", ("class", *classes, "n"), rows)
    return Figure(f"What changed beside {other}", to_svg(figure, alt), reading, table)


def _matrix(counts: np.ndarray, classes: Sequence[str], down: str, across: str) -> Any:
    """Draw int[K,K], each cell shaded by its share of the row, those on the diagonal in an ink of their own."""
    k, share = len(classes), counts / np.maximum(counts.sum(axis=1), 1)[:, None]
    figure, axes = canvas(5.0, 4.6)
    for row, column in np.ndindex(k, k):
        ink = series(0 if row == column else 1)
        # At most half covered, so that the same ink is legible on every cell, light or dark.
        axes.add_patch(_cell(column, row, ink, 0.55 * share[row, column]))
        if counts[row, column]:
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=10 if k < 9 else 7)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5), xlabel=across, ylabel=down)
    names = [label(name) for name in classes]
    axes.set_xticks(range(k), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), names)
    axes.grid(False)
    axes.tick_params(length=0)
    return figure


def _cell(x: float, y: float, ink: str, alpha: float) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=ink, alpha=alpha, linewidth=0)


@drawn
def class_recall(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw how many images of each class are recognised, with 95 % intervals (Wilson)."""
    from scipy.stats import binomtest

    n, right = confusion.sum(axis=1), np.diagonal(confusion)
    share, low, high = np.full((3, len(classes)), np.nan)
    for k in np.flatnonzero(n).tolist():
        share[k] = right[k] / n[k]
        low[k], high[k] = binomtest(int(right[k]), int(n[k])).proportion_ci(method="wilson")
    figure, axes = canvas()
    at = np.arange(len(classes))
    axes.hlines(at, low, high, color=series(0), linewidth=5, alpha=0.4)
    axes.plot(share, at, "o", color=series(0), markersize=7)
    axes.axvline(1 / len(classes), color=INKS["muted"], linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5), xlabel="recall (dashed: by chance)")
    axes.set_yticks(at, [label(name) for name in classes])
    axes.grid(axis="y")
    rows = [
        [name, f"{s:.3f}" if m else "–", f"{a:.3f} to {b:.3f}" if m else "–", str(m)]
        for name, s, a, b, m in zip(classes, share, low, high, n.tolist(), strict=True)
    ]
    best, worst = (classes[int(pick(share))] for pick in (np.nanargmax, np.nanargmin))
    alt = f"Recall of each class, from {np.nanmin(share):.2f} ({worst}) to {np.nanmax(share):.2f} ({best})."
    reading = (
        f"Best recognised is {best} ({np.nanmax(share):.2f}), worst {worst} ({np.nanmin(share):.2f}). Bars are 95 % "
        "intervals: classes whose bars overlap may be equally hard."
    )
    return Figure(
        "Recall by class", to_svg(figure, alt), reading, Table("Recall", ("class", "recall", "95 %", "n"), rows)
    )


@drawn
def class_shares(shares: Mapping[str, np.ndarray], classes: Sequence[str], reading: str) -> Figure:
    """Draw the shares of classes in several sets of images beside each other.

    Args:
        shares: what they are of -> float[K].
    """
    figure, axes = canvas(5.0, 4.6)
    height, at = 0.8 / len(shares), np.arange(len(classes))
    for number, (name, values) in enumerate(shares.items()):
        place = at + (number - (len(shares) - 1) / 2) * height
        axes.barh(place, values, height * 0.9, color=series(number), label=label(name))
    axes.set(ylim=(len(classes) - 0.5, -0.5), xlabel="share of the images")
    axes.set_yticks(at, [label(name) for name in classes])
    axes.grid(axis="y", visible=False)
    _legend_above(axes, len(shares))
    first, *_, last = shares.values()
    widest = int(np.abs(last - first).argmax())
    names = list(shares)
    alt = (
        f"Shares of classes: {', '.join(names)}. They differ most in {classes[widest]}: "
        f"{first[widest]:.0%} ({names[0]}) and {last[widest]:.0%} ({names[-1]})."
    )
    ends = f"{first[widest]:.0%} of {names[0]}, {last[widest]:.0%} of {names[-1]}"
    reading = f"Widest apart: {classes[widest]}, {ends}. {reading}"
    rows = [[name, *(f"{values[k]:.1%}" for values in shares.values())] for k, name in enumerate(classes)]
    return Figure("Classes of both sides", to_svg(figure, alt), reading, Table("Shares", ("class", *names), rows))


@drawn
def reliability_diagram(bins: Reliability) -> Figure:
    """Draw how often the model is right where it is so sure."""
    figure, axes = canvas()
    axes.plot([0, 1], [0, 1], "--", color=INKS["muted"], linewidth=1)
    # By their bins, whose means may lie so close that bars would cover each other.
    middle = (np.ceil(bins.confidence * BINS) - 0.5) / BINS
    axes.bar(middle, bins.n / bins.n.sum(), 0.9 / BINS, color=series(1), alpha=0.35, label="share of the images")
    axes.plot(bins.confidence, bins.accuracy, "o-", color=series(0), label="accuracy", clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
    _legend_above(axes, 2)
    gap = float((bins.n * (bins.confidence - bins.accuracy)).sum() / bins.n.sum())
    verdict = "surer than it is right" if gap > 0 else "less sure than it is right"
    chance = float(np.sqrt((bins.n * bins.accuracy * (1 - bins.accuracy)).sum()) / bins.n.sum())
    if abs(gap) < max(0.005, 2 * chance):
        verdict = (
            "as sure as it is right, as far as so few images tell" if abs(gap) >= 0.005 else "as sure as it is right"
        )
    alt = f"Reliability diagram of {counted(bins.n.sum(), 'image')}; the model is {verdict}, by {abs(gap):.3f}."
    reading = (
        f"On the dashed line a confidence of 0.8 is right 8 times of 10. Here the model is {verdict} "
        f"({abs(gap):.3f} on average; expected calibration error {bins.ece:.3f})."
    )
    columns = zip(bins.confidence, bins.accuracy, bins.n.tolist(), strict=True)
    rows = [[f"{c:.3f}", f"{a:.3f}", str(n)] for c, a, n in columns]
    return Figure("Reliability", to_svg(figure, alt), reading, Table("Bins", ("confidence", "accuracy", "n"), rows))


@drawn
def confidence_histogram(confidence: np.ndarray) -> Figure:
    """Draw how sure the model is of the images of a set."""
    figure, axes = canvas()
    n, edges = np.histogram(confidence, 20, (0, 1))
    axes.bar(edges[:-1], n / max(1, len(confidence)), 0.045, align="edge", color=series(0))
    axes.set(xlim=(0, 1), xlabel="confidence", ylabel="share of the images")
    middle = float(np.median(confidence))
    alt = f"Histogram of the confidence in {len(confidence)} predictions; half of them are above {middle:.2f}."
    reading = "How sure the model is. Without labels nothing says how often it is right."
    rows = [[f"{low:.2f} to {low + 0.05:.2f}", str(m)] for low, m in zip(edges[:-1], n.tolist(), strict=True)]
    return Figure("Confidence", to_svg(figure, alt), reading, Table("Images", ("confidence", "n"), rows))


@drawn
def curve(title: str, lines: Mapping[str, Sequence[tuple[int, float]]], reading: str = "") -> Figure:
    """Draw values that were logged in training.

    Args:
        lines: name -> (batches trained on, value) in order. Of long ones the means of equal stretches are drawn.
    """
    figure, axes = canvas(4.0, 2.9)
    rows: list[list[str]] = []
    for number, (name, logged) in enumerate(lines.items()):
        points = _thinned(logged, MOST_POINTS)
        mark = MARKS[number % len(MARKS)] if len(points) < 40 else ""
        axes.plot(*zip(*points, strict=True), marker=mark, markersize=3.5, label=label(name))
        rows += [[name, f"{step:.0f}", f"{value:.4g}"] for step, value in _thinned(logged, MOST_ROWS)]
    axes.set(xlabel="step")
    axes.margins(x=0.02)
    if len(lines) > 1:
        _legend_above(axes, len(lines))
    ends = ", ".join(f"{name} from {logged[0][1]:.3g} to {logged[-1][1]:.3g}" for name, logged in lines.items())
    alt = f"{title} over {counted(max(logged[-1][0] for logged in lines.values()), 'step')}: {ends}."
    return Figure(title, to_svg(figure, alt), reading, Table(title, ("line", "step", "value"), rows))


MOST_POINTS, MOST_ROWS = 500, 30


def _thinned(logged: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
    """Return points, or where there are more than `most` the means of as many equal stretches."""
    parts = np.array_split(np.asarray(logged, dtype=float), min(most, len(logged)))
    return [(float(step), float(value)) for step, value in (part.mean(axis=0) for part in parts)]


@drawn
def embedding(
    title: str, points: np.ndarray, kinds: np.ndarray, names: Sequence[str], domain: np.ndarray, reading: str
) -> Figure:
    """Draw points of both sides, coloured by what they are of.

    Args:
        points: float[N,2]. kinds: int[N], an index of `names` each. domain: int[N], 0 = source, 1 = target.
    """
    figure, axes = canvas(6.4, 5.2)
    for side, mark in ((0, "o"), (1, "^")):
        for kind in range(len(names)):
            own = (domain == side) & (kinds == kind)
            axes.scatter(*points[own].T, 22, color=series(kind), marker=mark, alpha=0.75, linewidths=0)
    named = [(label(name), series(kind), "s") for kind, name in enumerate(names) if len(names) > 2]
    sides = [INKS["muted"]] * 2 if named else [series(0), series(1)]
    for name, ink, mark in [*named, ("source", sides[0], "o"), ("target", sides[1], "^")]:
        axes.plot([], [], mark, color=ink, label=name)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.1)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    n = np.bincount(domain, minlength=2)
    what = f"{n[0]} source images (circles) and {n[1]} target images (triangles)"
    alt = f"{title}: t-SNE of {what}, coloured by {', '.join(names)}."
    return Figure(title, to_svg(figure, alt), reading)


@drawn
def unit_shares(shares: Mapping[str, np.ndarray], units: Sequence[str]) -> Figure:
    """Draw which share of each domain's images shows each action unit: a line a unit, from the least to the most."""
    figure, axes = canvas(5.0, max(3.0, 0.22 * len(units) + 0.9))
    at, table_of = np.arange(len(units)), np.array(list(shares.values()))
    axes.hlines(at, table_of.min(axis=0), table_of.max(axis=0), color=INKS["muted"], linewidth=2, alpha=0.5)
    for number, (name, values) in enumerate(shares.items()):
        mark = MARKS[number % len(MARKS)]
        axes.plot(values, at, mark, color=series(number), markersize=7, label=label(name))
    axes.set(xlim=(0, 1), ylim=(len(units) - 0.5, -0.5), xlabel="share of the images that show it")
    axes.set_yticks(at, [label(name) for name in units])
    axes.grid(axis="y", visible=False)
    _legend_above(axes, len(shares))
    alt = f"Share of images that show each of {counted(len(units), 'action unit')}, for {', '.join(shares)}."
    apart = table_of[:-1].mean(axis=0) - table_of[-1]
    widest, target = int(np.abs(apart).argmax()), list(shares)[-1]
    words = f"{table_of[-1][widest]:.0%} in {target}, {table_of[:-1].mean(axis=0)[widest]:.0%} in the sources"
    reading = (
        "Long lines are units that the target shows more or less often than the sources: its people move otherwise, "
        f"or the detector sees otherwise. Widest apart: {units[widest]}, {words}."
    )
    rows = [[name, *(f"{values[a]:.1%}" for values in shares.values())] for a, name in enumerate(units)]
    return Figure("Action units", to_svg(figure, alt), reading, Table("Shares", ("unit", *shares), rows))


@drawn
def boxes(title: str, by_seed: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> Figure:
    """Draw a score of each row of a comparison: a box over its seeds, and every seed as a point.

    Args:
        by_seed: row -> score of each seed.
    """
    figure, axes = canvas(5.0, 1.4 + 0.45 * len(by_seed))
    ink = {"color": INKS["muted"]}
    axes.boxplot(
        list(by_seed.values()), orientation="horizontal", widths=0.5, boxprops=ink, whiskerprops=ink, capprops=ink,
        medianprops=ink, showfliers=False, tick_labels=[label(name) for name in by_seed],
    )  # fmt: skip
    for number, values in enumerate(by_seed.values(), 1):
        for seed, value in enumerate(values):
            axes.plot(value, number, MARKS[seed % len(MARKS)], color=series(seed), markersize=6, alpha=0.85)
    axes.invert_yaxis()
    axes.set(xlabel=f"{title}; points are seeds")
    axes.grid(axis="y", visible=False)
    means = {name: float(np.mean(values)) for name, values in by_seed.items()}
    best = max(means, key=lambda name: means[name])
    over = counted(len(seeds), "seed")
    alt = f"Box plot of {title} by method over {over}; the best mean is {means[best]:.3f}, of {best}."
    rows = [[name, *(f"{value:.4f}" for value in values)] for name, values in by_seed.items()]
    table = Table(title, ("method", *(f"seed {seed}" for seed in seeds)), rows)
    few = " Of so few seeds the points say more." if len(seeds) < FEW_SEEDS else ""
    return Figure(title, to_svg(figure, alt), f"Box: quartiles over the seeds; line: their median.{few}", table)


@drawn
def paired_differences(title: str, by_seed: Mapping[str, Sequence[float]], first: str, seeds: Sequence[int]) -> Figure:
    """Draw how much each row is better than the first, seed by seed, with the 95 % interval of the mean (Student's t).

    Args:
        by_seed: row -> difference at each seed. first: name of the row that they are to.
    """
    from scipy.stats import t

    figure, axes = canvas(5.0, 1.4 + 0.45 * len(by_seed))
    rows, told = [], []
    for number, (name, values) in enumerate(by_seed.items()):
        mean, n = float(np.mean(values)), len(values)
        half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
        axes.hlines(number, mean - half, mean + half, color=INKS["muted"], linewidth=3, alpha=0.5)
        axes.plot(mean, number, "|", color=INKS["ink"], markersize=18, markeredgewidth=2)
        for seed, value in enumerate(values):
            axes.plot(value, number, MARKS[seed % len(MARKS)], color=series(seed), markersize=6, alpha=0.85)
        ends = f"{mean - half:+.4f} to {mean + half:+.4f}" if n > 1 else "–"
        rows.append([name, f"{mean:+.4f}", ends, *(f"{value:+.4f}" for value in values)])
        told.append(f"{name} {mean:+.3f}")
    axes.axvline(0, color=INKS["muted"], linestyle="--", linewidth=1)
    axes.set_yticks(range(len(by_seed)), [label(name) for name in by_seed])
    axes.set(ylim=(len(by_seed) - 0.5, -0.5), xlabel="difference, same seed")
    axes.grid(axis="y", visible=False)
    alt = f"Paired differences in {title} to {first} over {counted(len(seeds), 'seed')}, means: {', '.join(told)}."
    reading = "Bars: 95 % interval of the mean. One that covers the dashed line leaves open which method is better."
    table = Table(f"{title}, differences", ("method", "mean", "95 %", *(f"seed {seed}" for seed in seeds)), rows)
    return Figure(f"{title}: differences to {first}", to_svg(figure, alt), reading, table)


@drawn
def recall_by_row(recall: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Draw the recall of each class for several methods.

    Args:
        recall: method -> float[K], NaN where a class has no image.
    """
    figure, axes = canvas(5.0, 4.6)
    for number, (name, values) in enumerate(recall.items()):
        mark = MARKS[number % len(MARKS)]
        axes.plot(values, range(len(classes)), mark, color=series(number), markersize=8, alpha=0.85, label=label(name))
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5), xlabel="recall, mean of the seeds")
    axes.set_yticks(range(len(classes)), [label(name) for name in classes])
    _legend_above(axes, len(recall))
    alt = f"Recall of each of {counted(len(classes), 'class')} for {', '.join(recall)}."
    rows = [[name, *(f"{values[k]:.3f}" for values in recall.values())] for k, name in enumerate(classes)]
    table = Table("Recall, mean of the seeds", ("class", *recall), rows)
    reading = f"Which classes a method gains, and which it pays with.{_gains(recall, classes)}"
    return Figure("Recall by class", to_svg(figure, alt), reading, table)


def _gains(recall: Mapping[str, np.ndarray], classes: Sequence[str]) -> str:
    """Return what the method of the highest mean recall gains and loses most beside the first, in words."""
    names = list(recall)
    best = max(names, key=lambda name: float(np.nanmean(recall[name])))
    if best == names[0]:
        return ""
    change = recall[best] - recall[names[0]]
    most, least = int(np.nanargmax(change)), int(np.nanargmin(change))
    paid = f", and pays {change[least]:+.2f} in {classes[least]}" if change[least] < 0 else ", and pays with none"
    return f" Beside {names[0]}, {best} gains most in {classes[most]} ({change[most]:+.2f}){paid}."


def _legend_above(axes: object, n: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=min(n, 2), borderaxespad=0.2)  # type: ignore[attr-defined]
