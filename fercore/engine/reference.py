"""A finished run that another is set beside: how often the two predict the same class, which needs no label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fercore.engine.setup import RunContext
from fercore.errors import UserInputError
from fercore.records.result import Agreement
from fercore.runs.folder import RunFolder
from fercore.runs.predictions import as_written, read_predictions

WHERE = "report.reference"


@dataclass(frozen=True)
class Reference:
    """What a finished run predicts for the test part of this one.

    Attributes:
        plugins: that it was made with. seed: of it. guess: int64[n], its classes, numbered as this run's.
    """

    plugins: tuple[str, ...]
    seed: int
    guess: np.ndarray

    def agreement(self, run: Path) -> Agreement:
        """Compare it with what the run in this folder wrote of the same images."""
        probs = read_predictions(run).of("test").probs
        n, k = probs.shape
        counts = np.zeros((k, k), dtype=np.int64)
        np.add.at(counts, (self.guess, probs.argmax(axis=1)), 1)
        share = float(np.trace(counts)) / n if n else None
        return Agreement(plugins=list(self.plugins), seed=self.seed, n=n, agreement=share, counts=counts.tolist())


def read_reference(context: RunContext) -> Reference | None:
    """Return the run that `report.reference` names, as it predicts this run's test part; None where it names none.

    Raises:
        UserInputError: if it is not finished, has other classes, or did not predict every image of the test part.
    """
    named, domains = context.config.report.reference, context.domains
    if named is None:
        return None
    folder = RunFolder(Path(named))
    if not folder.finished:
        fix = f"finish it: fercore run --resume {named}" if folder.begun else "name a folder that `fercore run` wrote"
        raise UserInputError(f"{WHERE}: no finished run there", where=named, fix=fix)
    result, rows = folder.result(), read_predictions(folder.path)
    if set(rows.classes) != set(domains.classes):
        strange = sorted(set(rows.classes) ^ set(domains.classes))[0]
        fix = "train both with the same data.classes"
        raise UserInputError(f"{WHERE}: {strange!r} is a class of one run alone", where=named, fix=fix)
    # Any part of it will do: an image that this run tests on may be one that the reference adapted to.
    line_of = {image: number for number, image in enumerate(rows.images)}
    keys = [as_written(key) for key in domains.test.keys]
    if missing := [key for key in keys if key not in line_of]:
        what = f"{WHERE}: that run did not predict {len(missing)} of the {len(keys)} test images, such as {missing[0]}"
        raise UserInputError(what, where=named, fix="train the reference on the same target")
    order = np.array([domains.classes.index(name) for name in rows.classes])
    guess = order[rows.probs[[line_of[key] for key in keys]].argmax(axis=1)]
    return Reference(tuple(result.plugins), result.seed, guess)
