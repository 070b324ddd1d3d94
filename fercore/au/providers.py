"""Who says which action units a domain's images show: their generator, a file, a network, or an installed detector.

A provider is named by `data.au`, or for one domain by `?au=` in its SPEC:

- `synthfer`: the scores that generated faces carry;
- `PATH.csv`, or a folder of such: a file, see `fercore.au.files`;
- `PATH.safetensors`: a network that `fercore au train` wrote;
- `face_mesh`: the geometry of a face mesh, see `fercore.au.face_mesh`;
- any other name: an entry point of the group `fercore.au_providers`: a callable with `au_names` that maps images
  float32[B,3,H,W] in [0,1] to scores float[B,A] in [0,1], or a class of such callables. A row of NaN says that an image
  shows no face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fercore.au.files import FORMATS_THAT_DO, Naming, read_au_file
from fercore.au.match import match_frames, match_rows, match_stems
from fercore.au.network import load_network
from fercore.au.table import AUTable, canonical_name, from_scores
from fercore.config import DataSettings
from fercore.data.cache.stores import fetch, reserve
from fercore.data.formats.reading.scan import user_path
from fercore.data.table import Table
from fercore.errors import UserInputError, did_you_mean
from fercore.synthfer.names import AU_NAMES

GROUP = "fercore.au_providers"
GENERATED = "synthfer"
BUILT_IN = {"face_mesh": "fercore.au.face_mesh:FaceMesh"}
"""Detectors that come with fercore: name -> where it is."""

DIGITS = 4
"""Detectors' scores are rounded to this, so that the last bits of a sum do not make it other data."""


MATCH = {Naming.IMAGES: match_rows, Naming.STEMS: match_stems, Naming.FRAMES: match_frames}
"""What the names of a file's rows are -> how they find their samples."""


class Detector(Protocol):
    """Finds action units in images."""

    @property
    def au_names(self) -> Sequence[str]:
        """Return the units, "AU01", ..., one for each column of the scores."""

    def __call__(self, images: Tensor) -> Tensor:
        """Map images float32[B,3,H,W] in [0,1] to scores float[B,A] in [0,1]; a row of NaN = no face."""


@runtime_checkable
class RelativeDetector(Protocol):
    """A detector whose call returns readings float[B,A] of any range, which are scores only beside each other."""

    def over_table(self, readings: Tensor) -> Tensor:
        """Map the readings float[N,A] of all images of a domain, NaN where there is no face, to scores in [0,1]."""


@dataclass(frozen=True)
class Units:
    """What a provider says of a table's samples.

    Attributes:
        table: their units.
        unused: rows of its file that are of no sample.
        blanks: cells of its file that hold no number, of the samples.
        missing: what images lack of which nothing is known, for messages.
    """

    table: AUTable
    unused: int = 0
    blanks: int = 0
    missing: str = "have no row of action units"


def units_of(provider: str, table: Table, settings: DataSettings, where: str) -> Units:
    """Return the action units of a table's samples.

    Args:
        provider: see the module. table: samples with their own keys. settings: image size and threshold.
        where: the domain's spec, for messages.

    Raises:
        UserInputError: if the provider is unknown, or has nothing for this domain.
    """
    threshold = settings.au_threshold
    if provider == GENERATED:
        if "au_scores" not in table.extras:
            fix = f"give ?au= or data.au a file ({FORMATS_THAT_DO}), a .safetensors network or a detector's name"
            raise UserInputError("only generated faces carry action units of their own", where=where, fix=fix)
        return Units(from_scores(AU_NAMES, table.extras["au_scores"], threshold))
    path = user_path(provider)
    if provider.lower().endswith(".csv") or path.is_dir():
        file = read_au_file(path, threshold)
        rows = MATCH[file.naming](table.keys, file.images, file.path)
        if (rows < 0).all():
            fix = f"the file names {file.images[0]!r}, the domain {table.keys[0]!r}"
            raise UserInputError("no row of the action-unit file is of this domain", where=file.path, fix=fix)
        used = np.unique(rows[rows >= 0])
        units = file.table.take(file.table.names, rows)
        return Units(units, len(file.images) - len(used), int(file.blanks[used].sum()))
    units = detect(find_detector(provider), table, settings, provider)
    return Units(units, missing="show no face that the detector finds")


def find_detector(provider: str) -> Detector:
    """Return a network read from a file, or an installed detector.

    Raises:
        UserInputError: if there is none, or it is not what a detector is.
    """
    if provider.lower().endswith(".safetensors"):
        return cast("Detector", load_network(user_path(provider)))
    installed = {name: EntryPoint(name, place, GROUP) for name, place in BUILT_IN.items()}
    installed |= {point.name: point for point in entry_points(group=GROUP)}
    if provider not in installed:
        known = did_you_mean(provider, [GENERATED, *installed])
        fix = f"{known}, or give a file: {FORMATS_THAT_DO}"
        raise UserInputError(f"unknown action-unit provider {provider!r}", where="data.au", fix=fix)
    try:
        loaded = installed[provider].load()
        detector = loaded() if isinstance(loaded, type) else loaded
        names = getattr(detector, "au_names", None)
    except UserInputError:
        raise
    except Exception as error:
        raise UserInputError(f"{_named(provider)} cannot be loaded: {_cause(error)}", where="data.au") from error
    fix = "it must be a callable whose au_names are AU01, AU02, ..."
    if not callable(detector) or not isinstance(names, Sequence) or not names:
        raise UserInputError(f"{_named(provider)} is no detector", where="data.au", fix=fix)
    canonical = [canonical_name(name) if isinstance(name, str) else None for name in names]
    if None in canonical:
        name = names[canonical.index(None)]
        raise UserInputError(f"{_named(provider)} is no detector: {name!r} is no unit", where="data.au", fix=fix)
    if len(set(canonical)) < len(canonical):
        raise UserInputError(f"{_named(provider)} names a unit twice: {', '.join(names)}", where="data.au", fix=fix)
    return cast("Detector", detector)


def detect(detector: Detector, table: Table, settings: DataSettings, provider: str) -> AUTable:
    """Run a detector over a table's images, at the run's image size.

    Args:
        detector: see `find_detector`. table: its images. settings: image size, batch and threshold. provider: the
            detector's name, for messages.

    Raises:
        UserInputError: if it fails, or returns no tensor, another shape, or scores outside 0..1.
    """
    reserve([table], settings)
    parts = []
    for start in range(0, len(table), settings.eval_batch):
        at = np.arange(start, min(start + settings.eval_batch, len(table)))
        parts.append(_readings(detector, fetch(table, at, settings), provider))
    scores = _scores(detector, torch.cat(parts), provider)
    return from_scores(units_told(detector), scores, settings.au_threshold)


def units_told(detector: Detector) -> list[str]:
    """Return the units that a detector tells, by their canonical names."""
    return [cast("str", canonical_name(name)) for name in detector.au_names]


def scores_of(detector: Detector, pixels: np.ndarray, provider: str) -> np.ndarray:
    """Return a detector's scores of images, float32[B,A], rounded, after a look at what it returned; NaN = no face.

    Args:
        detector: see `find_detector`; no relative one. pixels: uint8[B,3,S,S]. provider: the detector's name, for
            messages.

    Raises:
        UserInputError: as `detect`.
    """
    return _scores(detector, _readings(detector, pixels, provider), provider)


@torch.no_grad()
def _readings(detector: Detector, pixels: np.ndarray, provider: str) -> Tensor:
    """Return what a detector says of images, float32[B,A], after a look at its shape."""
    images, units = torch.from_numpy(pixels).float() / 255, len(detector.au_names)
    try:
        answer: object = detector(images)
    except UserInputError:
        raise
    except Exception as error:
        raise UserInputError(f"{_named(provider)} failed: {_cause(error)}", where="data.au") from error
    if not isinstance(answer, Tensor) or answer.is_complex() or answer.layout != torch.strided:
        what = f"{_named(provider)} returned {type(answer).__name__}, not a dense tensor of real scores"
        raise UserInputError(what, where="data.au")
    if tuple(answer.shape) != (len(images), units):
        what = f"{_named(provider)} returned {tuple(answer.shape)} scores for {len(images)} images and {units} units"
        raise UserInputError(what, where="data.au")
    return answer.detach().float().cpu()


def _scores(detector: Detector, readings: Tensor, provider: str) -> np.ndarray:
    scores = detector.over_table(readings) if isinstance(detector, RelativeDetector) else readings
    # Positive form: a NaN fails it too, save where the whole row is, of an image without a face.
    if not bool((((scores >= 0) & (scores <= 1)).all(dim=1) | scores.isnan().all(dim=1)).all()):
        raise UserInputError(f"{_named(provider)} returned scores outside 0..1", where="data.au")
    return np.round(np.asarray(scores.numpy()), DIGITS)


def _named(provider: str) -> str:
    return f"action-unit provider {provider!r}"


def _cause(error: Exception) -> str:
    lines = str(error).splitlines()
    return type(error).__name__ + (f": {lines[0][:120]}" if lines else "")
