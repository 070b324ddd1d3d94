"""Pictures of a result for logs of other tools; the report's figures are in `fercore.reporting`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fercore.records.result import Target


def pictures_of(target: Target) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8[H,W,3]): errors where there are labels, shares of predicted classes, change to a reference."""
    classes = target.classes
    if target.confusion is not None:
        yield "confusion", _matrix(np.array(target.confusion), classes, "true class", "predicted class")
    if target.predicted is not None:
        yield "class_shares", _bars(target.predicted.class_shares)
    if target.reference is not None:
        counts, name = np.array(target.reference.counts), "+".join(target.reference.plugins)
        yield "beside_reference", _matrix(counts, classes, f"class by {name}", "class by this run")


def _matrix(counts: np.ndarray, classes: list[str], down: str, across: str) -> np.ndarray:
    """Draw counts int[K,K], shaded by their share of the row."""
    figure, axes = _canvas()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        # White on the dark half of the colours.
        ink = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=ink)
    axes.set(xlabel=across, ylabel=down)
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    return _pixels(figure)


def _bars(shares: dict[str, float]) -> np.ndarray:
    figure, axes = _canvas()
    axes.barh(range(len(shares)), list(shares.values()))
    axes.set_yticks(range(len(shares)), list(shares))
    axes.invert_yaxis()
    axes.set(xlabel="share of the test images predicted as it")
    return _pixels(figure)


def _canvas() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), dpi=100, layout="constrained")
    return figure, figure.add_subplot()


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # type: ignore[no-untyped-call]
    with rc_context({"text.parse_math": False}):  # class names with a dollar sign are no formulas
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
