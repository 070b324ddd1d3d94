"""What an adaptation came to: its model, verdict, report, and a table of everything that was tried."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fercore.adaptation import ship
from fercore.adaptation.state import Record, Tried
from fercore.evaluation.verdict import Verdict
from fercore.prediction.predictor import Predictor, load_predictor


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation came to.

    Attributes:
        path: its folder. record: the contents of adaptation.json.
    """

    path: Path
    record: Record

    @property
    def model(self) -> Predictor:
        """The model that is shipped: an adapted one, or the one that there was."""
        return load_predictor(self.path / ship.MODEL_NAME)

    @property
    def verdict(self) -> Verdict | None:
        """Of the best adapted model against the one that it started from; None where there is none."""
        if self.record.verdict is None:
            return None
        given = {key: value for key, value in self.record.verdict.items() if key != "schema"}
        return Verdict(**{**given, "interval": tuple(given["interval"])})

    @property
    def report(self) -> Path | None:
        """The HTML file; None where its packages are missing."""
        name = self.record.files.get("report")
        return None if name is None else self.path / name

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return head and rows of what was trained, as text; scores by labels choose nothing."""
        rows = [row for row in self.record.tried if row.plugins]
        scored = any(row.accuracy is not None for row in rows)
        head = ("method", "what became of it", "steps", "mean rank", "agrees with the start")
        text = [
            [
                row.label,
                row.fate,
                _steps(row),
                "–" if row.mean_rank is None else f"{row.mean_rank:.1f}",
                "–" if row.agreement is None else f"{row.agreement:.0%}",
                *([_points(row.accuracy), _points(row.balanced_accuracy)] if scored else []),
            ]
            for row in rows
        ]
        return (*head, *(("accuracy", "balanced") if scored else ())), text

    def not_trained(self) -> list[str]:
        """Return a line on each row of the portfolio that was not trained to its end: what came in the way."""
        return [f"{row.label}: {row.why}" for row in self.record.tried if row.why]


def _steps(row: Tried) -> str:
    """Return the steps of a row: of how many, where its time was over before them."""
    return str(row.steps) if row.planned is None else f"{row.steps} of {row.planned}"


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
