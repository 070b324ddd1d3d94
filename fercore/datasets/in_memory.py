"""A labelled dataset whole in memory, for tools that train outside a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fercore.au.providers import GENERATED, units_of
from fercore.config import DataSettings
from fercore.data.cache.stores import fetch
from fercore.data.domains.domain_set import read_chosen
from fercore.data.domains.split import divide
from fercore.data.images.preflight import inspect
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of one dataset.

    Attributes:
        images: u8[N,3,S,S]. labels: name of each one's class. units: names of the action units each shows, if known.
        subjects: who is on each. held_out: bool[N], whether that subject is one of those to test on.
    """

    images: Tensor
    labels: tuple[str, ...]
    units: tuple[tuple[str, ...], ...]
    subjects: tuple[str, ...]
    held_out: np.ndarray


def read_labelled(spec: DomainSpec, *, size: int, held_out: float, seed: int) -> LabelledImages:
    """Read the labelled images of a dataset, and hold a share of its subjects out.

    Args:
        spec: the dataset; generated faces bring action units, others may name a provider (?au=). size: S.
        held_out: share of the subjects, in (0, 1). seed: which ones.

    Raises:
        UserInputError: for no usable labelled image, or fewer than two subjects.
    """
    settings = DataSettings(size=size, cache_mb=0)
    table, _ = read_chosen(spec)
    table = table.subset(inspect(table).usable)
    table = table.subset(np.flatnonzero(table.labels >= 0))
    if not len(table):
        raise UserInputError("no usable labelled image", where=spec.where)
    provider = spec.options.get("au", GENERATED if spec.generated else None)
    shown: list[tuple[str, ...]] = [()] * len(table)
    if provider:
        units = units_of(provider, table, settings, spec.where).table
        shown = [tuple(np.array(units.names)[row > 0].tolist()) for row in units.codes]
    if not all(table.subjects) or len(set(table.subjects)) < 2:
        fix = "give data with two subjects or more, such as a manifest with a column subject"
        raise UserInputError("subjects to hold out are not known", where=spec.where, fix=fix)
    parts = divide(table, {"train": 1 - held_out, "test": held_out}, by="subject", seed=seed)
    return LabelledImages(
        images=torch.from_numpy(fetch(table, np.arange(len(table)), settings)),
        labels=tuple(CANONICAL[label] for label in table.labels.tolist()),
        units=tuple(shown),
        subjects=tuple(table.subjects),
        held_out=np.array([part == "test" for part in parts], dtype=bool),
    )
