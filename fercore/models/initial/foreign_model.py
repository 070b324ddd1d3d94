"""The record of a trained model of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fercore.data.labels import CANONICAL, find_label, unknown_names
from fercore.errors import UserInputError

Statistics = tuple[float, float, float]
NAMES = "?names="
GIVE_NAMES = "give them in the order of its outputs: --init 'MODEL?names=anger,disgust,...'"


@dataclass(frozen=True)
class ForeignModel:
    """A trained classifier of another program.

    Attributes:
        kind: what it is, in words. file: of its weights.
        backbone, arguments: settings that build its network, as `model.backbone` and `model.backbone_args` have them.
        weight, bias: of its linear head, f[K,D] and f[K].
        size: side of its images in pixels. mean, std: of pixels scaled to [0, 1], by channel.
        names: of its outputs in order, as its files or the user say; None = nobody does.
    """

    kind: str
    file: Path
    backbone: str
    weight: Tensor
    bias: Tensor | None
    size: int
    mean: Statistics
    std: Statistics
    names: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def split_names(text: str) -> tuple[str, tuple[str, ...] | None]:
    """Return the place of a model, and the names of its outputs where they are given behind it (`?names=a,b,...`).

    Raises:
        UserInputError: for names that are empty or given twice.
    """
    place, given, rest = text.rpartition(NAMES)
    if not given:
        return text, None
    names = tuple(name.strip() for name in rest.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise UserInputError(f"cannot read names {rest!r}", where="--init", fix=GIVE_NAMES)
    return place, names


def canonical_names(names: Sequence[str], outputs: int, *, where: str) -> tuple[str, ...]:
    """Return the canonical name of every output.

    Args:
        names: as a file or the user has them. outputs: of the network. where: the model, for messages.

    Raises:
        UserInputError: for another number of names, a name that is no expression, or two of one.
    """
    if len(names) != outputs:
        what = f"{len(names)} class names for {outputs} outputs"
        raise UserInputError(what, where=where, fix=GIVE_NAMES)
    labels = [find_label(name) for name in names]
    unknown = {name: 1 for name, label in zip(names, labels, strict=True) if label is None}
    if unknown:
        what = f"outputs of the model that are no expression: {unknown_names(unknown)}"
        raise UserInputError(what, where=where, fix=GIVE_NAMES)
    known = tuple(CANONICAL[label] for label in labels if label is not None)
    if len(set(known)) < len(known):
        twice = next(name for name in known if known.count(name) > 1)
        raise UserInputError(f"two outputs of the model are {twice}", where=where, fix=GIVE_NAMES)
    return known
