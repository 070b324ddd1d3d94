"""What finished runs recorded of the images that they adapted to: predictions without the test part, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fercore.errors import UserInputError
from fercore.records.result import Result
from fercore.runs.folder import RunFolder
from fercore.runs.predictions import read_predictions, read_scores

AMI = "class_ami"


@dataclass(frozen=True)
class Recorded:
    """A model's predictions.

    Attributes:
        name: what messages call it. images: by name. classes: by name. probs: f[n,K].
        scores: of all these images, without a label of theirs, by name.
    """

    name: str
    images: tuple[str, ...]
    classes: tuple[str, ...]
    probs: np.ndarray
    scores: Mapping[str, float] = field(default_factory=dict)


def result_of(run: Path) -> Result:
    """Return the result of a finished run.

    Raises:
        UserInputError: if it is none.
    """
    folder = RunFolder(run)
    if not folder.finished:
        fix = f"finish it: fercore run --resume {run}" if folder.begun else "give a folder that fercore run wrote"
        raise UserInputError("no finished run there", where=str(run), fix=fix)
    return folder.result()


def read_recorded(run: Path) -> Recorded:
    """Return what a finished run predicts for its adaptation part; a transductive one has no other than its test part.

    Raises:
        UserInputError: if there is no finished run, or its predictions.csv is not what a run writes.
    """
    part = "test" if result_of(run).target.transductive else "adaptation"
    rows, kept = read_predictions(run).of(part), read_scores(run)
    # Images that a line of predictions.csv was taken from are other images than those the scores are of.
    whole = kept is not None and (kept.part, kept.n) == (part, len(rows.images))
    return Recorded(str(run), rows.images, rows.classes, rows.probs, kept.scores if kept and whole else {})


def class_amis(models: Sequence[Recorded], images: Sequence[str]) -> list[float]:
    """Return `class_ami` of every model as its run recorded it of these images; [] where one did not."""
    same = all(len(model.images) == len(images) for model in models)
    return [model.scores[AMI] for model in models] if same and all(AMI in model.scores for model in models) else []


def aligned(models: Sequence[Recorded]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return the images that all models know, by name in the first one's order, and their probabilities f[n,K] of each.

    Classes are in the order of the first model's.

    Raises:
        UserInputError: for models of other classes, or without an image in common.
    """
    first = models[0]
    for other in models[1:]:
        if set(other.classes) != set(first.classes):
            strange = sorted(set(other.classes) ^ set(first.classes))[0]
            what = f"models of different classes: {strange!r} is one of one alone"
            raise UserInputError(what, where=f"{first.name}, {other.name}", fix="train them with the same data.classes")
    places = [{image: row for row, image in enumerate(model.images)} for model in models]
    images = tuple(image for image in first.images if all(image in known for known in places))
    if not images:
        what, fix = "no image in common: models of different targets, or divided by another seed", "give --target SPEC"
        raise UserInputError(what, where=", ".join(model.name for model in models), fix=fix)
    columns = [[model.classes.index(name) for name in first.classes] for model in models]
    return images, [
        model.probs[[known[image] for image in images]][:, order]
        for model, known, order in zip(models, places, columns, strict=True)
    ]
