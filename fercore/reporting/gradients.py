"""The table of a run's gradients (`report.gradients`): what each term of the loss asks of the features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fercore.reporting.blocks import Block, Note, Table
from fercore.reporting.collect import GradientLine, RunFiles
from fercore.terminal import counted

HEAD = ("term", "at", "side", "first", "mean", "last", "cosine to the supervised terms")
READING = (
    "Norms of each weighted term's gradient at what the module returns. A term whose norm is far below the others' "
    "moves the features little, whatever its value; one with a cosine below 0 pulls them away from where the labels do."
)


def gradients(run: RunFiles) -> Iterator[Block]:
    """Return the table, if the run looked at gradients: norms, and the mean cosine, by term, place and side."""
    lines = [line for line in run.lines if isinstance(line, GradientLine)]
    if not lines:
        return
    norms: dict[tuple[str, str, str], list[float | None]] = {}
    cosines: dict[tuple[str, str, str], list[float | None]] = {}
    for line in lines:
        for into, found in ((norms, line.norms), (cosines, line.cosines)):
            for term, places in found.items():
                for place, sides in places.items():
                    for side, value in sides.items():
                        into.setdefault((term, place, side), []).append(value)
    rows = [
        [*key, _number(values[:1]), _number(values), _number(values[-1:]), _number(cosines.get(key, []), "+.2f")]
        for key, values in norms.items()
    ]
    yield Table(f"Gradients of the terms, {counted(len(lines), 'look')}", HEAD, rows)
    yield Note(READING)


def _number(values: Sequence[float | None], form: str = ".2g") -> str:
    finite = [value for value in values if value is not None]
    return format(sum(finite) / len(finite), form) if finite else ""
