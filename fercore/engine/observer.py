"""What a run tells whoever watches it; the console and tests implement it."""

from __future__ import annotations

from collections.abc import Mapping

from fercore.records.plan import StepReport
from fercore.records.result import Score, Scores


class Observer:
    """Hears of a run's progress; this one keeps silent."""

    def message(self, text: str) -> None:
        """Hear one line for people."""

    def begin(self, done: int, total: int) -> None:
        """Hear that training starts at batch `done` of `total`."""

    def step(self, report: StepReport, done: int) -> None:
        """Hear that a phase of batch number `done` is finished."""

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Hear an evaluation on the target's test part after `done` batches, and which score comes first."""

    def selected(self, scores: Mapping[str, float], done: int) -> None:
        """Hear the scores without target labels that were logged after `done` batches, by name."""

    def enough(self, done: int, *, usable: bool) -> bool:
        """Say whether training ends after batch `done`, and the network is taken as it stands; asked after each.

        Args:
            usable: whether it can end here; not before the last stage, nor within a stream.
        """
        return False

    def end(self) -> None:
        """Hear that training is over, finished or not."""
