"""What the data of an adaptation are, before anything is trained: crops or not, labels, copies of the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from fercore.data.domains.domain_set import read_chosen
from fercore.data.images.codecs import Unusable
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.datasets.check import find
from fercore.datasets.check.look import look as look_at
from fercore.datasets.check.near import SIMILAR
from fercore.datasets.prepare import MANIFEST, PrepareSettings, prepare
from fercore.errors import UserInputError
from fercore.prediction.faces import CropCheck, crop_check
from fercore.records.result import Result
from fercore.terminal import counted

LOOKED_AT = 24
"""Images of a dataset that a detector looks at."""
LEAST_SIDE = 96
"""Pixels under which an image is taken for a crop: detectors find few faces in one, though it shows nothing else."""
NO_FACES = 0.8
"""Share of images without a face above which they are refused."""
TINY, FEWEST = 50, 20
"""Images of a target under which few methods have enough to go by, and no verdict can be given."""
ONE_CLASS = 0.9
"""Share of the target predicted as one class above which it seems to have no other."""
UNEVEN = 0.2
"""Total variation between the target's class shares and even ones above which methods that assume even ones sit out."""

Faces: TypeAlias = Literal["auto", "whole", "detect"]
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """The datasets, ready to be trained on.

    Attributes:
        sources: labelled; none = there is a model alone. target: its labels, where it has some, only score.
        copies: images of the target that a source has, too. notes: what a user should know, a line each.
    """

    sources: tuple[DomainSpec, ...]
    target: DomainSpec
    copies: int
    notes: tuple[str, ...]


def look(
    sources: Sequence[DomainSpec], target: DomainSpec, folder: Path, faces: Faces, tell: Tell, detector: str = "mtcnn"
) -> Data:
    """Look at the datasets, and cut faces out of those that are no crops.

    Args:
        sources, target: as they were given. folder: where cut-out faces go, each dataset in one of its own.
        faces: "auto" = a detector looks at some images of each dataset and decides; "whole" = every image is a face;
            "detect" = faces are cut out. tell: hears what takes long.

    Raises:
        UserInputError: for datasets that cannot be read, or images that show no faces.
    """
    notes: list[str] = []
    ready = []
    for number, spec in enumerate([*sources, target]):
        place = folder / (f"source{number}" if number < len(sources) else "target")
        ready.append(_cut_out(spec, place, faces, detector, notes, tell))
    target = ready[-1]
    table, _ = read_chosen(target)
    if not (table.labels >= 0).any() and not any(table.split) and "transductive" not in target.options:
        # Nothing is scored, so nothing need be kept from training: all of them are to be answered.
        target = DomainSpec.of(target.format, target.path, {**target.options, "transductive": "true"})
        notes.append(f"target: no image has a label, so all {len(table)} are adapted to, and nothing is scored")
    if len(table) < TINY:
        notes.append(f"target: {counted(len(table), 'image')}, so few that only methods which need few are tried")
    copies = _copies(ready[:-1], ready[-1])
    if copies:
        notes.append(f"target: {copies} of {counted(len(table), 'image')} stand in a source too, or nearly the same")
    return Data(tuple(ready[:-1]), target, copies, tuple(notes))


def _cut_out(spec: DomainSpec, out: Path, faces: Faces, detector: str, notes: list[str], tell: Tell) -> DomainSpec:
    """Return the dataset, or the one of its faces where its images are no crops."""
    if spec.generated or faces == "whole":
        return spec
    settings = PrepareSettings(detector=detector)
    if faces == "auto" and not out.exists():
        table, _ = read_chosen(spec)
        seen = crop_check(_large(table), settings)
        if seen is None:
            notes.append(f"{spec}: taken for crops of faces, as no detector is installed ({detector})")
            return spec
        _refuse_no_faces(spec, seen)
        if seen.crops:
            return spec
        notes.append(
            f"{spec}: no crops: in {seen.small} of {counted(seen.found, 'image')} the face fills less than half of the "
            f"side; faces are cut out"
        )
    tell(f"{spec}: cutting out faces")
    done = prepare(spec, out, settings)
    notes.append(f"{spec}: {counted(done['prepared'], 'face')} cut out, {counted(done['refused'], 'image')} refused")
    return DomainSpec.of("manifest", str(out / MANIFEST))


def _large(table: Table) -> Iterator[np.ndarray]:
    """Yield some images uint8[H,W,3] of a dataset, evenly through it, that are large enough to find a face in."""
    for i in np.unique(np.linspace(0, len(table) - 1, LOOKED_AT).astype(int)).tolist():
        try:
            pixels = table.read(i)
        except (Unusable, ValueError):  # what cannot be read is counted where it is trained on
            continue
        if min(pixels.shape[:2]) >= LEAST_SIDE:
            yield pixels


def _refuse_no_faces(spec: DomainSpec, seen: CropCheck) -> None:
    if seen.looked >= 8 and seen.found < (1 - NO_FACES) * seen.looked:
        what = f"a face was found in {seen.found} of {counted(seen.looked, 'image')} looked at"
        raise UserInputError(what, where=str(spec), fix="give images of faces, or --faces whole if they are crops")


def _copies(sources: Sequence[DomainSpec], target: DomainSpec) -> int:
    """Return how many images of the target a source has too, exactly or nearly."""
    if target.generated or not (real := [spec for spec in sources if not spec.generated and spec != target]):
        return 0
    mine = look_at(target)
    pairs = [pair for spec in real for pair in find.between([look_at(spec), mine], SIMILAR)]
    return len({pair["paths"][1] for pair in pairs})


def task_features(data: Data, first: Result, *, units: bool) -> set[str]:
    """Return what is known of a task before there is a model: see `fercore.adaptation.portfolio.FEATURES`.

    Args:
        first: of any run on these data. units: whether there are action units.
    """
    features = {"source"} if data.sources else {"no_source"}
    features |= {"several_sources"} if len(data.sources) > 1 else set()
    features |= {"few_labels"} if first.target.labelled.n else set()
    features |= {"action_units"} if units else set()
    features |= {"tiny_target"} if first.target.n_adaptation < TINY else set()
    return features


def target_features(model: Result) -> tuple[set[str], list[str]]:
    """Return what a model makes of the target's classes, as features, and in words.

    Args:
        model: the result of a run with the model that adapting starts from.
    """
    shares = shares_of(model)
    if not shares:
        return set(), []
    name, most = max(shares.items(), key=lambda item: item[1])
    if most > ONE_CLASS:
        return {"one_class"}, [f"target: {most:.0%} is taken for {name}: methods that expect several classes sit out"]
    if sum(abs(share - 1 / len(shares)) for share in shares.values()) / 2 > UNEVEN:
        return {"label_shift"}, [f"target: class shares seem uneven ({name} {most:.0%}): methods for even ones sit out"]
    return set(), []


def shares_of(model: Result) -> dict[str, float]:
    """Return class -> share of the target: by EM where source was held out, else as predicted; {} if unknown."""
    estimated = model.target.estimated_shares or {}
    if "em" in estimated:
        return {name: each.share for name, each in estimated["em"].items()}
    return dict(model.target.predicted.class_shares) if model.target.predicted else {}
