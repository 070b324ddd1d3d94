"""What a finished run recorded of the target: predictions, scores, and apart from them the test part's truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field

from fercore.documents import Shape, misfit, parse_json, plain_cell
from fercore.errors import UserInputError, reason_of
from fercore.files import read_text
from fercore.runs.folder import PREDICTIONS, SCORES, TEST_LABELS
from fercore.writing import write_json

AGAIN = "bring it back as it was, or start the run again"
FIRST = ["image", "part", "prediction"]
TRUTH = ["image", "subject", "label"]


@dataclass(frozen=True)
class PredictionRows:
    """Lines of predictions.csv.

    Attributes:
        images: name of each. parts: what the run takes it for. classes: by name. probs: float64[N,K].
    """

    images: tuple[str, ...]
    parts: tuple[str, ...]
    classes: tuple[str, ...]
    probs: np.ndarray

    def of(self, part: str) -> PredictionRows:
        """Return the lines of one part."""
        kept = [i for i, name in enumerate(self.parts) if name == part]
        return PredictionRows(tuple(self.images[i] for i in kept), (part,) * len(kept), self.classes, self.probs[kept])


class RecordedScores(Shape):
    """The contents of scores.json: scores of the reported model that no label of the target goes into.

    Attributes:
        part: whose images they are of, the one that was adapted to. n: its images. scores: by name.
    """

    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    schema_: int = Field(1, alias="schema")
    part: str
    n: Annotated[int, Field(ge=0)]
    uses_target_labels: Literal[False] = False
    scores: dict[str, Annotated[float, Field(allow_inf_nan=False)]]


def as_written(image: str) -> str:
    """Return a name as the file has it: bytes of it that are no UTF-8 stand there as escapes."""
    return image.encode("utf-8", "backslashreplace").decode()


def read_predictions(run: Path, classes: Sequence[str] = ()) -> PredictionRows:
    """Return the lines of predictions.csv in a run folder.

    Args:
        classes: that its columns must be; none = those it has.

    Raises:
        UserInputError: if it is missing, or not what a run writes.
    """
    path = run / PREDICTIONS
    lines = _lines(path)
    images, parts, probs = [], [], []
    try:
        head = [plain_cell(cell) for cell in next(lines, (0, []))[1]]
        wanted = [*FIRST, *(classes or head[len(FIRST) :])]
        if head != wanted or len(head) < len(FIRST) + 2:
            raise ValueError(f"its columns are not {', '.join(wanted)}")
        for number, (image, part, _, *shares) in lines:
            values = [float(share) for share in shares]
            # Written with six decimals, so that a row's sum is 1 but for them.
            if len(values) != len(head) - len(FIRST) or not all(0 <= value <= 1 for value in values):
                raise ValueError(f"line {number}: not a probability for each class")
            if abs(sum(values) - 1) > 1e-3:
                raise ValueError(f"line {number}: its probabilities do not sum to 1")
            images.append(plain_cell(image))
            parts.append(part)
            probs.append(values)
    except (ValueError, csv.Error) as error:
        raise UserInputError(f"{PREDICTIONS} is damaged: {error}", where=str(path), fix=AGAIN) from None
    known = tuple(head[len(FIRST) :])
    return PredictionRows(tuple(images), tuple(parts), known, np.array(probs).reshape(-1, len(known)))


def write_scores(run: Path, scores: RecordedScores) -> None:
    """Write scores.json into a run folder.

    Raises:
        WriteError: if it cannot be written.
    """
    write_json(run / SCORES, scores.model_dump(by_alias=True))


def read_scores(run: Path) -> RecordedScores | None:
    """Return what scores.json of a run folder holds; None where there is none, as in runs of earlier versions.

    Raises:
        UserInputError: if it is damaged.
    """
    path = run / SCORES
    try:
        tree = parse_json(read_text(path), where=str(path))
    except FileNotFoundError:
        return None
    except UserInputError:
        raise
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {SCORES}: {reason_of(error)}", where=str(path), fix=AGAIN) from None
    if fault := misfit(tree, RecordedScores):
        raise UserInputError(f"{SCORES} is damaged: {fault}", where=str(path), fix=AGAIN)
    return RecordedScores.model_validate(tree)


def read_test_labels(run: Path) -> dict[str, tuple[str, str]]:
    """Return image -> (subject, class) of the labelled test images of a run folder.

    Raises:
        UserInputError: if the file is missing, as in runs of earlier versions, or not what a run writes.
    """
    path = run / TEST_LABELS
    lines = _lines(path)
    try:
        if next(lines, (0, []))[1] != TRUTH:
            raise ValueError(f"its columns are not {', '.join(TRUTH)}")
        return {plain_cell(image): (plain_cell(subject), plain_cell(label)) for _, (image, subject, label) in lines}
    except (ValueError, csv.Error) as error:
        raise UserInputError(f"{TEST_LABELS} is damaged: {error}", where=str(path), fix=AGAIN) from None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, cells) of a CSV file's lines but empty ones."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"cannot read {path.name}: {reason_of(error)}", where=str(path), fix=AGAIN) from None
    reader = csv.reader(io.StringIO(text, newline=""))
    for cells in reader:
        if cells:
            yield reader.line_num, cells
