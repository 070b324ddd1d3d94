"""Records of cells as a table that pandas reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fercore.documents import parquet_package
from fercore.records.result import Result
from fercore.writing import whole


@dataclass(frozen=True)
class CellRecord:
    """A row of study.parquet: one cell.

    Attributes:
        state: finished, begun, failed or missing; whatever comes of the result is None until it is finished.
        accuracy, balanced_accuracy, macro_f1: shares, on the target's test part. n: its labelled images.
        target_labels: labels of the target that were trained on. train_seconds: of training. peak_memory_mb: MiB.
        folder: the cell's run folder.
    """

    method: str
    pair: str
    seed: int
    state: str
    reason: str
    plugins: str
    folder: str
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    n: int | None = None
    target_labels: int | None = None
    steps: int | None = None
    train_seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_mb: float | None = None
    device: str | None = None

    def with_result(self, result: Result) -> CellRecord:
        """Return the record of the same cell with what its run came to."""
        target = result.target
        return replace(
            self,
            accuracy=target.accuracy,
            balanced_accuracy=target.balanced_accuracy,
            macro_f1=target.macro_f1,
            n=target.n,
            target_labels=target.labelled.n,
            steps=result.steps,
            train_seconds=result.train_seconds,
            images_per_second=result.train_images_per_second,
            peak_memory_mb=result.peak_memory_mb,
            device=result.device,
        )


def write_frame(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records with the same keys as parquet, a column a key; values of several types become text.

    Raises:
        UserInputError: if pyarrow is not installed. WriteError: if it cannot be written.
    """
    pyarrow = parquet_package(path)
    columns = {name: _column([record[name] for record in records]) for name in (records[0] if records else {})}
    with whole(path) as file:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)


def _column(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    mixed = len(kinds) > 1 and not kinds <= {int, float}
    return [None if value is None else str(value) for value in values] if mixed else values
