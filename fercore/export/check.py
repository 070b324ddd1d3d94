"""Whether an exported model says what the model says, and how fast: measured before anything is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch

from fercore.data.domains.load import read_domain
from fercore.data.noise import permutation
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError
from fercore.export.graph import Pixels
from fercore.prediction.predictor import Predictor

IMAGES: Final = 64
FACES: Final = DomainSpec.of("synthfer", "wild", {"n": str(2 * IMAGES)})
"""Images that are compared where the user names none: generated faces, there on every machine."""
SECONDS: Final = 0.3
Answer: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""Maps pixels [B,3,S,S] to class probabilities float32[B,K]."""


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
        timed = f"images/s on this CPU, {self.threads} thread{'s' * (self.threads > 1)}: {speeds}"
        return [f"{same} ({self.n} images of {self.data})", *([timed] if self.speed else [])]


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


def read_images(predictor: Predictor, data: DomainSpec, n: int = IMAGES) -> np.ndarray:
    """Return images of a dataset in the model's size, uint8[n,3,S,S], drawn over all of it; labels are not looked at.

    Raises:
        UserInputError: if it cannot be read, or has none.
    """
    table, _ = read_domain(data)
    rows = permutation(len(table), "export")[:n].tolist()
    if not rows:
        raise UserInputError("no image to compare", where=data.text, fix="name another dataset")
    return np.stack([predictor.fit(table.read(row)) for row in rows])


def as_input(images: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return images uint8[B,3,S,S] as an exported model takes them."""
    return images if pixels == "uint8" else images.astype(np.float32) / np.float32(255)


def check(
    predictor: Predictor, images: np.ndarray, data: DomainSpec, pixels: Pixels, exported: dict[str, Answer]
) -> Check:
    """Compare what was exported with the model, image by image.

    Args:
        images: uint8[N,3,S,S] of the dataset `data`. pixels: what the export takes.
        exported: name -> what runs it; the first is compared, all are timed.
    """
    want = predictor.predict(list(images.transpose(0, 2, 3, 1))).probs
    given = as_input(images, pixels)
    found = next(iter(exported.values()))(given)
    normalised = torch.stack([predictor.transform(image) for image in images.transpose(0, 2, 3, 1)])

    def by_torch(_: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return predictor.probabilities(normalised).numpy()

    speed = {name: _speed(run, given) for name, run in {"torch": by_torch, **exported}.items()}
    return Check(data, len(images), *compare(found, want), speed, torch.get_num_threads())


def compare(found: np.ndarray, want: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of probabilities [N,K], infinite where they are no numbers, and the agreement."""
    difference = float(np.abs(found - want).max()) if np.isfinite(found).all() else float("inf")
    return difference, float((found.argmax(1) == want.argmax(1)).mean())


def refuse_worse(found: Check, bound: Bound, what: str) -> None:
    """Refuse an export that loses more than it may.

    Raises:
        UserInputError: with what was measured.
    """
    if found.difference <= bound.difference and found.agreement >= bound.agreement:
        return
    loss = f"differs from the model by {found.difference:.1e} and names another class for {1 - found.agreement:.1%}"
    limit = f"at most {bound.difference:g} and {1 - bound.agreement:.0%} are let pass"
    fix = "nothing was written; leave --half and --int8 out, or name the images it is for with --data"
    raise UserInputError(f"the {what} export {loss} of {found.n} images, {limit}", where=found.data.text, fix=fix)


def _speed(run: Answer, given: np.ndarray) -> float:
    """Return images a second, after a first call that warms up."""
    run(given)
    done, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < SECONDS or not done:
        run(given)
        done += len(given)
    return done / passed
