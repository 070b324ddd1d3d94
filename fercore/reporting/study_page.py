"""The table of a study as a page of its own, with average ranks and the critical difference drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fercore.evaluation.metrics import LEVEL
from fercore.experiments.tables import Spread, StudyTable, grid, long_rows, notes, points
from fercore.records.result import SCORES
from fercore.reporting.blocks import Block, Chapter, Figure, Figures, Note, Page, Table
from fercore.reporting.html import render
from fercore.reporting.style import INKS, canvas, drawn, label, to_svg

MARKS = {"plain": "{}", "best": "{} ①", "second": "{} ②", "published": "{} (paper)"}


def study_page_html(table: StudyTable, spread: Spread) -> str:
    """Return the page of a study's table: one HTML file that needs no network."""
    return render(study_page(table, spread))


def study_page(table: StudyTable, spread: Spread) -> Page:
    """Return the page of a study's table."""
    head, rows = grid(table, spread)
    texts = [[MARKS[cell.kind].format(cell.text) for cell in row] for row in rows]
    title = table.title or f"{len(table.methods)} methods on {len(table.pairs)} pairs"
    blocks: list[Block] = [Table("In points; ① best and ② second best of the measured means of a column", head, texts)]
    blocks += [Note(f"{line[0].upper()}{line[1:]}.") for line in notes(table, spread)]
    chapters = [Chapter("Methods by pair", blocks)]
    if figures := list(_figures(table)):
        chapters.append(Chapter("Ranks", [Figures(figures, 2)]))
    chapters.append(Chapter("Paired differences", [_differences(table)]))
    return Page(title, f"{SCORES[table.metric]} over seeds {', '.join(map(str, table.seeds))}.", chapters)


def _differences(table: StudyTable) -> Table:
    head = ("method", "pair", "difference", f"{LEVEL:.0%} interval", "p", "p after Holm")
    rows = [
        [
            str(record["method"]),
            str(record["pair"]),
            points(record["difference"], "+"),
            f"{points(record['difference_low'], '+')} to {points(record['difference_high'], '+')}",
            f"{record['p']:.4f}",
            f"{record['p_holm']:.4f}",
        ]
        for record in long_rows(table)
        if record.get("p") is not None
    ]
    return Table(
        f"Differences to {table.reference}, in points (paired bootstrap over test units and seeds)", head, rows
    )


def _figures(table: StudyTable) -> Iterator[Figure]:
    if table.critical_difference is not None:
        yield critical_difference_diagram(table.rank, table.critical_difference, len(table.pairs))


@drawn
def critical_difference_diagram(rank: Mapping[str, float], critical: float, pairs: int) -> Figure:
    """Draw average ranks on a line, with bars over methods that are not told apart (Demšar, JMLR 2006, figure 1)."""
    order = sorted(rank, key=lambda name: rank[name])
    figure, axes = canvas(5.0, 1.2 + 0.35 * len(order))
    for row, name in enumerate(order):
        axes.plot(rank[name], row, "o", color=INKS["ink"], markersize=6)
    for number, (first, last) in enumerate(cliques([rank[name] for name in order], critical)):
        axes.plot(
            [rank[order[first]], rank[order[last]]], [len(order) + 0.35 * number] * 2, color=INKS["ink"], linewidth=3
        )
    axes.set_yticks(range(len(order)), [label(name) for name in order])
    axes.invert_yaxis()
    axes.set(xlabel="average rank, 1 is best")
    listed = ", ".join(f"{name} {rank[name]:.2f}" for name in order)
    alt = (
        f"Average ranks over {pairs} pairs: {listed}. Ranks that differ by less than {critical:.2f} are not told apart."
    )
    reading = f"Bars join methods whose ranks differ by less than the critical difference, {critical:.2f} (Nemenyi)."
    numbers = Table("Average ranks", ("method", "rank"), [[name, f"{rank[name]:.2f}"] for name in order])
    return Figure("Average ranks", to_svg(figure, alt), reading, numbers)


def cliques(ranks: list[float], critical: float) -> list[tuple[int, int]]:
    """Return (first, last) of the longest groups of sorted ranks that lie within the critical difference."""
    groups: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(at for at, other in enumerate(ranks) if other - rank <= critical)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups
