"""Whether an exported model says what the model says, and how fast: measured before anything is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch

from fercore.au.table import CODES, SCORES, from_scores
from fercore.data.domains.load import read_domain
from fercore.data.noise import permutation
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.export.graph import INPUT, NORMALISED, Pixels, probabilities_of
from fercore.prediction.action_units import units_for
from fercore.prediction.inputs import Inputs
from fercore.prediction.predictor import Predictor
from fercore.synthfer.names import AU_NAMES
from fercore.terminal import counted

IMAGES: Final = 64
FACES: Final = DomainSpec.of("synthfer", "wild", {"n": str(2 * IMAGES)})
"""Images that are compared where the user names none: generated faces, there on every machine."""
SECONDS: Final = 0.3
Feed: TypeAlias = dict[str, np.ndarray]
"""Name of an input -> its values: pixels [B,3,S,S], then what else the model reads, in the graph's order."""
Answer: TypeAlias = Callable[[Feed], np.ndarray]
"""Maps inputs to class probabilities float32[B,K]."""


@dataclass(frozen=True)
class Sample:
    """Images to compare on.

    Attributes:
        data: the dataset. images: uint8[N,3,S,S]. extras: name -> [N,...], what else the model reads of them.
    """

    data: DomainSpec
    images: np.ndarray
    extras: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def part(self, some: slice) -> Sample:
        """Return some of it."""
        return Sample(self.data, self.images[some], {name: values[some] for name, values in self.extras.items()})

    def feed(self, pixels: Pixels) -> Feed:
        """Return it as an exported model takes it."""
        scaled = self.images if pixels == "uint8" else self.images.astype(np.float32) / np.float32(255)
        if pixels == "emotiefflib":
            mean, std = (np.array(values, dtype=np.float32).reshape(1, 3, 1, 1) for values in NORMALISED)
            scaled = (scaled - mean) / std
        return {INPUT: scaled, **self.extras}

    def predicted(self, predictor: Predictor) -> np.ndarray:
        """Return what the model says of it, float32[N,K]."""
        return predictor.predict(list(self.images.transpose(0, 2, 3, 1)), extras=self.extras).probs


@dataclass(frozen=True)
class Bound:
    """What an export may lose at most.

    Attributes:
        difference: largest difference of a probability. agreement: least share of images of the same likeliest class.
    """

    difference: float
    agreement: float


@dataclass(frozen=True)
class Check:
    """What was measured; without a speed where the same network runs.

    Attributes:
        data: the images. n: how many. difference: largest one of a probability to torch. agreement: share of
            images of the same likeliest class. speed: name -> images a second, in batches of `n`. threads: of the CPU.
    """

    data: DomainSpec
    n: int
    difference: float
    agreement: float
    speed: dict[str, float] = field(default_factory=dict)
    threads: int = 1

    def lines(self) -> list[str]:
        """Return what to tell of it."""
        speeds = ", ".join(f"{name} {value:,.0f}" for name, value in self.speed.items())
        same = f"largest difference to torch {self.difference:.1e}, same class {self.agreement:.2%}"
        timed = f"images/s on this CPU, {counted(self.threads, 'thread')}: {speeds}"
        return [f"{same} ({counted(self.n, 'image')} of {self.data})", *([timed] if self.speed else [])]


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: file or folder. what: in words. bytes: its size. seconds: from the model to the file's contents. check:
            what was measured. usage: lines of Python that run it.
    """

    path: Path
    what: str
    bytes: int
    seconds: float
    check: Check
    usage: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what to tell of it."""
        size = f"{self.bytes:,} bytes, made in {self.seconds:.1f} s"
        return [f"{self.what}, {size}", *self.check.lines(), f"written to {self.path}"]


def read_sample(predictor: Predictor, data: DomainSpec | None, n: int = IMAGES) -> Sample:
    """Return n images of a dataset, drawn over all of it; labels are not looked at.

    Args:
        data: the dataset; None = generated faces.

    Raises:
        UserInputError: if it cannot be read or has none, or nobody says which action units they show, for a model
            that reads those.
    """
    own, data = data is None, data or FACES
    table, _ = read_domain(data)
    rows = permutation(len(table), "export")[:n].tolist()
    if not rows:
        raise UserInputError("no image to compare", where=data.text, fix="name another dataset")
    chosen = table.subset(rows)
    images = np.stack([predictor.fit(pixels) for pixels in chosen.read_many(range(len(chosen)))])
    if own and predictor.needed:
        return Sample(data, images, _drawn_units(predictor, chosen))
    frames = Inputs((chosen,))
    units = units_for(predictor, frames, None)
    return Sample(data, images, {} if units is None else units.extras(list(frames), images))


def _drawn_units(predictor: Predictor, table: Table) -> dict[str, np.ndarray]:
    """Return the units that generated faces were drawn with; such as are never drawn are not shown."""
    scores = np.zeros((len(table), len(predictor.units)), dtype=np.float32)
    for k, name in enumerate(predictor.units):
        if name in AU_NAMES:
            scores[:, k] = table.extras["au_scores"][:, AU_NAMES.index(name)]
    units = from_scores(predictor.units, scores, predictor.data_settings.au_threshold)
    every = {SCORES: units.scores, CODES: units.codes}
    predictor.refuse_extras(*every)
    return {name: every[name] for name in predictor.needed}


def check(predictor: Predictor, sample: Sample, pixels: Pixels, exported: dict[str, Answer]) -> Check:
    """Compare what was exported with the model, image by image.

    Args:
        sample: the images. pixels: what the export takes.
        exported: name -> what runs it; the first is compared, all are timed.
    """
    given = sample.feed(pixels)
    said = next(iter(exported.values()))(given)
    if pixels == "emotiefflib":
        said = probabilities_of(said, predictor.classes)
    # Torch is timed without the normalisation that the graph has inside: the comparison favours torch.
    normalised = torch.stack([predictor.transform(image) for image in sample.images.transpose(0, 2, 3, 1)])
    beside = {name: torch.from_numpy(values) for name, values in sample.extras.items()}

    def by_torch(_: Feed) -> np.ndarray:
        with torch.inference_mode():
            return predictor.probabilities(normalised, beside).numpy()

    speed = {name: _speed(run, given, len(sample)) for name, run in {"torch": by_torch, **exported}.items()}
    difference, agreement = compare(said, sample.predicted(predictor))
    return Check(sample.data, len(sample), difference, agreement, speed, torch.get_num_threads())


def compare(said: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of probabilities [N,K], infinite where they are no numbers, and the agreement."""
    difference = float(np.abs(said - want).max()) if np.isfinite(said).all() else float("inf")
    return difference, float((said.argmax(1) == want.argmax(1)).mean())


def refuse_worse(measured: Check, bound: Bound, what: str) -> None:
    """Refuse an export that loses more than it may.

    Raises:
        UserInputError: with what was measured.
    """
    if measured.difference <= bound.difference and measured.agreement >= bound.agreement:
        return
    others = 1 - measured.agreement
    loss = f"differs from the model by {measured.difference:.1e} and names another class for {others:.1%}"
    limit = f"at most {bound.difference:g} and {1 - bound.agreement:.0%} are let pass"
    fix = "nothing was written; leave --half and --int8 out, or name the images it is for with --data"
    raise UserInputError(
        f"the {what} export {loss} of {counted(measured.n, 'image')}, {limit}", where=measured.data.text, fix=fix
    )


def _speed(run: Answer, given: Feed, n: int) -> float:
    """Return images a second, after a first call that warms up."""
    run(given)
    done, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < SECONDS or not done:
        run(given)
        done += n
    return done / passed
