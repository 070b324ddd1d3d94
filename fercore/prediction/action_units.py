"""Which action units faces show, for models that read them beside the image: by a file, a network or a detector."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from fercore.au.attach import provider_of
from fercore.au.files import FORMATS_THAT_DO, AUFile, Naming, read_au_file
from fercore.au.match import frame_name
from fercore.au.providers import GENERATED, MATCH, Detector, RelativeDetector, find_detector, scores_of, units_told
from fercore.au.table import CODES, SCORES, AUTable, from_scores
from fercore.config import DataSettings
from fercore.data.formats.reading.scan import user_path
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.prediction.inputs import Clip, Frame, Inputs, names_of
from fercore.synthfer.names import AU_NAMES

WHERE = "--au"
FIX = f"give a CSV ({FORMATS_THAT_DO}), a .safetensors network of `fercore au train` or an installed detector"

Extras: TypeAlias = dict[str, np.ndarray]
Source: TypeAlias = "str | Clip | Table"


class Reader(Protocol):
    """A model that may read action units; `Predictor` is one."""

    needed: tuple[str, ...]
    units: tuple[str, ...]
    data_settings: DataSettings

    def refuse_extras(self, *given: str) -> None:
        """Make sure that it needs nothing but images, and what is named."""


class Told(Protocol):
    """Says which action units faces show."""

    def of(self, frames: Sequence[Frame], pixels: np.ndarray) -> AUTable:
        """Return the units of faces, in the model's order.

        Args:
            frames: of each face. pixels: uint8[B,3,S,S], the faces as the network sees them.
        """

    def fault(self, faces: int) -> str:
        """Return why nothing can be said of a frame with so many faces; "" = it can."""


@dataclass(frozen=True)
class Known:
    """Units that a file or a generator gives, by input and frame."""

    table: AUTable
    rows: Mapping[tuple[str, int | None], int]

    def of(self, frames: Sequence[Frame], pixels: np.ndarray) -> AUTable:
        """Return them; NaN scores for a frame without a row."""
        at = [self.rows.get((frame.input, frame.number), -1) for frame in frames]
        return self.table.take(self.table.names, np.array(at, dtype=np.int64))

    def fault(self, faces: int) -> str:
        """Refuse several faces: a row is of a picture."""
        return f"{faces} faces, and the action units given are of one" if faces > 1 else ""


@dataclass(frozen=True)
class Detected:
    """Units that a detector finds on the faces."""

    detector: Detector
    provider: str
    names: tuple[str, ...]
    threshold: float

    def of(self, frames: Sequence[Frame], pixels: np.ndarray) -> AUTable:
        """Return what it finds."""
        units = from_scores(units_told(self.detector), scores_of(self.detector, pixels, self.provider), self.threshold)
        return units.take(self.names, np.arange(len(units)))

    def fault(self, faces: int) -> str:
        """Look at every face."""
        return ""


@dataclass(frozen=True)
class ActionUnits:
    """What a model reads of faces beside their pixels.

    Attributes:
        told: who says it of each input. needed: of "au" and "au_code", those that it reads, in its order.
    """

    told: Mapping[str, Told]
    needed: Sequence[str]

    def extras(self, frames: Sequence[Frame], pixels: np.ndarray) -> Extras:
        """Return what it reads of faces: "au" float32[B,A], "au_code" uint8[B,A].

        Args:
            frames: of each face. pixels: uint8[B,3,S,S], the faces as the network sees them.

        Raises:
            UserInputError: if a detector fails.
        """
        groups: dict[int, tuple[Told, list[int]]] = {}
        for i, frame in enumerate(frames):
            told = self.told[frame.input]
            groups.setdefault(id(told), (told, []))[1].append(i)
        parts = [(rows, told.of([frames[i] for i in rows], pixels[rows])) for told, rows in groups.values()]
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        every = {
            SCORES: np.concatenate([units.scores for _, units in parts])[order],
            CODES: np.concatenate([units.codes for _, units in parts])[order],
        }
        return {name: every[name] for name in self.needed}

    def fault(self, frame: Frame, faces: int) -> str:
        """Return why nothing can be said of a frame with so many faces; "" = it can."""
        return self.told[frame.input].fault(faces)


def units_for(
    model: Reader, inputs: Inputs, provider: str | None, tell: Callable[[str], None] = lambda line: None
) -> ActionUnits | None:
    """Return who says which action units inputs show; None for a model that asks for images alone.

    A dataset's own `?au=` goes before `provider`. Where neither is given, a detector that the target of the run was
    read with is asked, and generated faces say it themselves.

    Args:
        model: what reads them. inputs: what it is to predict on. provider: as in `fercore.au.providers`. tell: hears
            what people should know.

    Raises:
        UserInputError: if the model reads something else, nobody is named or at hand, or who is named does not know
            the model's units or any of the inputs.
    """
    model.refuse_extras(SCORES, CODES)
    if not model.needed:
        if provider is not None:
            raise UserInputError("the model reads no action units", where=WHERE, fix="leave it out")
        return None
    if not model.units:
        what = "the model does not say which action units it reads: an older fercore wrote it"
        raise UserInputError(what, where="model.json", fix="train again")
    groups: dict[str, list[Source]] = {}
    for source in inputs.sources:
        groups.setdefault(_chosen(model, source, provider), []).append(source)
    told: dict[str, Told] = {}
    for name, sources in groups.items():
        one = _told(model, name, sources, tell)
        told.update((key, one) for source in sources for key in names_of(source))
    return ActionUnits(told, model.needed)


def units_of_images(
    model: Reader, images: Sequence[Any], provider: str | None, fit: Callable[[Any], np.ndarray]
) -> Extras:
    """Return the extras of images, as `Predictor.action_units` does.

    Args:
        images: paths are found by name; others by a detector alone. fit: returns uint8[3,S,S] of one.
    """
    paths = [os.fsdecode(item) if isinstance(item, str | os.PathLike) else "" for item in images]
    given = [path or f"image {n}" for n, path in enumerate(paths)]
    names = [name for path in given for name in names_of(path)]
    units = units_for(model, Inputs(tuple(dict.fromkeys(given))), provider)
    if units is None:
        return {}
    # A file asks for names alone: nothing is decoded for it.
    looks = any(isinstance(told, Detected) for told in units.told.values())
    pixels = np.stack([fit(item) for item in images]) if looks else np.zeros((len(images), 0), dtype=np.uint8)
    return units.extras([Frame(name, _unread) for name in names], pixels)


def _unread() -> np.ndarray:
    raise NotImplementedError("what is asked for are names")


def _chosen(model: Reader, source: Source, provider: str | None) -> str:
    """Return the provider for an input.

    Raises:
        UserInputError: if none is named and none is at hand.
    """
    own = source.au if isinstance(source, Table) else ""
    if own or provider:
        return own or str(provider)
    data = model.data_settings
    used = provider_of(data.target, data)
    if used == GENERATED and isinstance(source, Table) and "au_scores" in source.extras:
        return GENERATED
    if used and used != GENERATED and not _is_file(used):
        return used
    what = f"the model predicts from action units beside the image: {', '.join(model.units)}"
    raise UserInputError(what, where=WHERE, fix=FIX)


def _is_file(provider: str) -> bool:
    return provider.lower().endswith(".csv") or user_path(provider).is_dir()


def _told(model: Reader, provider: str, sources: Sequence[Source], tell: Callable[[str], None]) -> Told:
    names, threshold = model.units, model.data_settings.au_threshold
    if provider == GENERATED:
        return _generated(names, sources, threshold)
    if _is_file(provider):
        return _listed(names, read_au_file(user_path(provider), threshold), sources, tell)
    detector = find_detector(provider)
    if isinstance(detector, RelativeDetector):
        what = f"{provider} compares the faces of a whole dataset, and tells nothing of one face"
        fix = f"give a CSV that `fercore au detect --weights {provider}` wrote of these images"
        raise UserInputError(what, where=WHERE, fix=fix)
    _refuse_fewer(names, units_told(detector), provider)
    return Detected(detector, provider, names, threshold)


def _generated(names: tuple[str, ...], sources: Sequence[Source], threshold: float) -> Known:
    """Return the units of generated faces, which carry their own."""
    rows: dict[tuple[str, int | None], int] = {}
    scores = []
    for source in sources:
        if not isinstance(source, Table) or "au_scores" not in source.extras:
            what = "only generated faces carry action units of their own"
            raise UserInputError(what, where=names_of(source)[0], fix=FIX)
        first = len(rows)
        rows.update(((key, None), first + i) for i, key in enumerate(names_of(source)))
        scores.append(source.extras["au_scores"])
    _refuse_fewer(names, AU_NAMES, GENERATED)
    units = from_scores(AU_NAMES, np.concatenate(scores), threshold)
    return Known(units.take(names, np.arange(len(units))), rows)


def _listed(names: tuple[str, ...], file: AUFile, sources: Sequence[Source], tell: Callable[[str], None]) -> Known:
    """Return the units of a file, matched with inputs by name, and of clips by the number of the frame."""
    _refuse_fewer(names, file.table.names, file.path)
    clips = [names_of(source)[0] for source in sources if not isinstance(source, str | Table)]
    images = [name for source in sources if isinstance(source, str | Table) for name in names_of(source)]
    matched = MATCH[file.naming](images, file.images, file.path) if images else np.zeros(0, dtype=np.int64)
    rows: dict[tuple[str, int | None], int] = {}
    rows.update(((name, None), row) for name, row in zip(images, matched.tolist(), strict=True) if row >= 0)
    missing = len(images) - len(rows)
    for clip in clips:
        rows.update(_of_clip(clip, file))
    if not rows:
        first = (*images, *clips)[0]
        what = "no row of the action-unit file is of these inputs"
        raise UserInputError(what, where=file.path, fix=f"the file names {file.images[0]!r}, the inputs {first!r}")
    if missing:
        tell(f"{missing} of {len(images)} pictures have no row in {file.path}: their action units count as unknown")
    return Known(file.table.take(names, np.arange(len(file.table))), rows)


def _of_clip(path: str, file: AUFile) -> dict[tuple[str, int | None], int]:
    """Return (path, number of the frame from 0) -> row."""
    if file.naming is not Naming.FRAMES:
        return {}
    clip = frame_name(path, 0).rpartition("#")[0]
    split = (name.rpartition("#") for name in file.images)
    numbers = {int(number): row for row, (owner, _, number) in enumerate(split) if owner == clip}
    # OpenFace counts frames from 1, py-feat from 0, and both have a row for a frame without a face.
    return {(path, number - file.first_frame): row for number, row in numbers.items()}


def _refuse_fewer(wanted: Sequence[str], told: Sequence[str], where: str) -> None:
    if missing := [name for name in wanted if name not in told]:
        what = f"the model reads {', '.join(missing)}, which it does not tell"
        raise UserInputError(what, where=where, fix=f"it tells {', '.join(told)}")
