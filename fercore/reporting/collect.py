"""What a report reads of a run folder: records that somebody else may have written, checked for their shape."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import ConfigDict, ValidationError

from fercore.config import RunConfig, check_settings
from fercore.documents import Shape, in_words, parse_json
from fercore.engine.model_record import ModelRecord, read_record
from fercore.errors import UserInputError, reason_of
from fercore.files import SUMS, read_text
from fercore.records.result import Result
from fercore.runs.folder import METRICS, RunFolder
from fercore.runs.predictions import AGAIN, PredictionRows, read_predictions


class StepLine(Shape):
    """A line of metrics.jsonl on one phase of one step."""

    model_config = ConfigDict(extra="ignore")  # JSON has no infinity, and whole numbers stand for floats

    done: int
    stage: str
    phase: str
    total: float
    terms: dict[str, float]
    lr: list[float]


class EvaluationLine(Shape):
    """A line of metrics.jsonl on an evaluation of the target."""

    model_config = ConfigDict(extra="ignore")

    done: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float


class GradientLine(Shape):
    """A line of metrics.jsonl on the gradients of one phase's terms: term -> place -> side -> a number."""

    model_config = ConfigDict(extra="ignore")

    done: int
    norms: dict[str, dict[str, dict[str, float | None]]]
    cosines: dict[str, dict[str, dict[str, float | None]]]


Line: TypeAlias = StepLine | EvaluationLine | GradientLine
LINES: dict[str, type[Line]] = {"step": StepLine, "evaluation": EvaluationLine, "gradients": GradientLine}
"""Kinds of lines that are drawn; others are not read."""


class RunFiles:
    """A finished run, as its folder tells it.

    Args:
        path: the run folder.

    Raises:
        UserInputError: if there is no finished run, or something in it is not what a run writes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, RunFolder(path)
        if not self.folder.begun:
            fix = "give a folder that `run` or `compare` wrote"
            raise UserInputError("no run or comparison in this folder", where=str(path), fix=fix)
        if not self.folder.finished:
            fix = f"a report is made of a finished one: fercore run --resume {path}"
            raise UserInputError("that run is not finished", where=str(path), fix=fix)
        self.settings = self.folder.config_layers()
        self.config = check_settings(RunConfig, self.settings, prefix="")
        self.result: Result = self.folder.result()
        self.started: dict[str, Any] = self.folder.started()
        self.data: dict[str, Any] = self.folder.data_report()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of every table."""
        return self.result.target.classes

    @property
    def name(self) -> str:
        """The method."""
        return "+".join(self.result.plugins)

    @property
    def confusion(self) -> np.ndarray | None:
        """int64[K,K], rows are the truth; None without labels.

        Raises:
            UserInputError: if it is no square of the classes.
        """
        if self.result.target.confusion is None:
            return None
        counts = self.square(self.result.target.confusion)
        # Figures divide by these counts, and tiles give n: a matrix of other images would go unseen.
        if not 0 < counts.sum() == self.result.target.n:
            raise UserInputError("confusion is not of the images that were scored", where=str(self.path), fix=AGAIN)
        return counts

    def square(self, rows: list[list[int]]) -> np.ndarray:
        """Return counts of result.json as int64[K,K].

        Raises:
            UserInputError: if they are no square of the classes.
        """
        k = len(self.classes)
        if len(rows) != k or any(len(row) != k or min(row) < 0 for row in rows):
            raise UserInputError(f"confusion is no table of {k} classes", where=str(self.path), fix=AGAIN)
        return np.array(rows, dtype=np.int64)

    @cached_property
    def record(self) -> ModelRecord:
        """Contents of model/model.json."""
        return read_record(self.folder.model)

    @cached_property
    def lines(self) -> list[Line]:
        """The lines of metrics.jsonl on steps and evaluations, in order.

        Raises:
            UserInputError: if one is not what a run writes.
        """
        return list(self._lines())

    def _lines(self) -> Iterator[Line]:
        path = self.path / METRICS
        for number, text in enumerate(_text(path).splitlines(), 1):
            where = f"{path}:{number}"
            try:
                record = parse_json(text, where=where)
                kind = record.get("kind") if isinstance(record, dict) else None
                if not isinstance(kind, str):
                    raise ValueError("it has no kind")
                if kind in LINES:
                    yield LINES[kind].model_validate(record)
            except ValidationError as error:
                what = f"not a line of a run's log: {in_words(error.errors()[0]['msg'])}"
                raise UserInputError(what, where=where, fix=AGAIN) from None
            except UserInputError:
                raise
            except ValueError as error:
                raise UserInputError(f"not a line of a run's log: {error}", where=where, fix=AGAIN) from None

    @cached_property
    def predictions(self) -> PredictionRows:
        """The lines of predictions.csv.

        Raises:
            UserInputError: if it is missing, or not what a run writes.
        """
        return read_predictions(self.path, self.classes)

    def digests(self) -> dict[str, str]:
        """Return what the run can be told from any other by: name -> SHA-256."""
        # The folder's own list: what was written then, even where a file has changed since.
        listed = (line.partition("  ") for line in _text(self.folder.model / SUMS).splitlines())
        model_digests = {f"model/{name}": digest for digest, _, name in listed}
        parts = self.data["fingerprint"]
        sources = parts.get("sources", [])
        named = [*((f"source {number}", part) for number, part in enumerate(sources, 1)), *parts.items()]
        data = {f"data: {name}": part["sha256"] for name, part in named if isinstance(part, dict) and "sha256" in part}
        return {**model_digests, "settings": self.record.provenance.settings_sha256, **data}


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"cannot read {path.name}: {reason_of(error)}", where=str(path), fix=AGAIN) from None
