"""The tensor records of one training step. Imports torch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Side: TypeAlias = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")
Purpose: TypeAlias = Literal["train", "refresh", "evaluate"]
"""What images are encoded for: a step, an epoch's `refresh`, or predictions."""
PLAIN = "plain"
"""Name of the one view that `refresh` and evaluation have: the images as they are."""
UNKNOWN_LABEL = -1


@dataclass(frozen=True)
class DomainBatch:
    """Samples of one side of a step; several source domains travel together and `domain` tells them apart.

    Attributes:
        images: view name -> float[B,3,H,W], normalised for the backbone.
        labels: int64[B], index into the run's classes; -1 where unknown (always, on an unlabelled target).
        domain: int64[B], 0-based number of the source domain (0 for the target).
        index: int64[B], position of the sample in its side's dataset.
        extras: further per-sample tensors [B,...], by name.
        per_domain: samples of domain 0, 1, ..., known without waiting for the device; None = nobody has counted.
    """

    images: Mapping[str, Tensor]
    labels: Tensor
    domain: Tensor
    index: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    per_domain: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def domain_counts(self) -> tuple[int, ...]:
        """Return how many samples each domain has; waits for the device only where nobody has counted."""
        return tuple(torch.bincount(self.domain).tolist()) if self.per_domain is None else self.per_domain

    def joined(self, other: DomainBatch, view: str) -> DomainBatch:
        """Return one view of both batches' samples, these first, without extras."""
        pairs = ((self.images[view], other.images[view]), (self.labels, other.labels))
        images, labels, domain, index = (
            torch.cat(pair) for pair in (*pairs, (self.domain, other.domain), (self.index, other.index))
        )
        return DomainBatch({view: images}, labels, domain, index)

    def some(self, at: Tensor, view: str) -> DomainBatch:
        """Return one view of the samples at places int64[b]."""
        at = at.to(self.labels.device)
        extras = {name: values[at] for name, values in self.extras.items()}
        images = {view: self.images[view][at]}
        return DomainBatch(images, self.labels[at], self.domain[at], self.index[at], extras)

    def to(self, device: torch.device | str) -> DomainBatch:
        """Return the same batch on another device."""
        return replace(
            self,
            images=_move(self.images, device),
            labels=self.labels.to(device, non_blocking=True),
            domain=self.domain.to(device, non_blocking=True),
            index=self.index.to(device, non_blocking=True),
            extras=_move(self.extras, device),
        )


def _move(tensors: Mapping[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Batch:
    """One step's samples. Semi-supervised runs: source = labelled, target = unlabelled."""

    source: DomainBatch
    target: DomainBatch

    def side(self, name: Side) -> DomainBatch:
        """Return the samples of one side."""
        return self.source if name == "source" else self.target

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on another device."""
        return Batch(self.source.to(device), self.target.to(device))


@dataclass(frozen=True)
class Encoded:
    """What the network says of one (side, view).

    Attributes:
        features: branch name -> float[B,D].
        logits: branch name -> float[B,K].
    """

    features: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]

    def split(self, sizes: Sequence[int]) -> list[Encoded]:
        """Return the rows in runs of these lengths, as views."""
        features = {name: torch.split(tensor, list(sizes)) for name, tensor in self.features.items()}
        logits = {name: torch.split(tensor, list(sizes)) for name, tensor in self.logits.items()}
        return [
            Encoded({n: t[i] for n, t in features.items()}, {n: t[i] for n, t in logits.items()})
            for i in range(len(sizes))
        ]


Forward: TypeAlias = Mapping[tuple[Side, str], Encoded]
"""Every (side, view) of a step, encoded."""


@dataclass(frozen=True)
class PseudoLabels:
    """Labels a method gives to the target samples of a step; always detached.

    Attributes:
        labels: int64[Bt].
        weight: float[Bt] in [0,1]; 0 = not selected.
        probs: float[Bt,K].
    """

    labels: Tensor
    weight: Tensor
    probs: Tensor

    def detach(self) -> PseudoLabels:
        """Return the same labels cut from the graph."""
        return PseudoLabels(self.labels.detach(), self.weight.detach(), self.probs.detach())


class Role(StrEnum):
    """What a loss term is for; add-ons replace terms by role, never by another plugin's name."""

    SUPERVISED = "supervised"
    CONSISTENCY = "consistency"
    ALIGNMENT = "alignment"
    CONTRASTIVE = "contrastive"
    ADVERSARIAL = "adversarial"
    REGULARISER = "regulariser"


@dataclass(frozen=True)
class LossTerm:
    """One named term of the step's loss; the step minimises the sum of weight * value.

    Attributes:
        name: "<plugin>/<term>", e.g. "la_cmfer/sample_mmd".
        role: what it is for.
        value: scalar tensor, unweighted.
        weight: factor in the total.
    """

    name: str
    role: Role
    value: Tensor
    weight: float = 1.0


KeepTerm: TypeAlias = Callable[[LossTerm], bool]
"""Says of a loss term whether it counts."""


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        stage: name of the stage; phase: name of the phase inside the step.
        epoch: 0-based epoch of the stage; step: optimiser steps done in the stage.
        total_steps: steps of the stage.
        repeat: 0-based number of the phase's run on this batch, where it has several.
        forward: 0-based number of the forward of this run, where a `backward` hook asks for several.
    """

    stage: str
    phase: str
    epoch: int
    step: int
    total_steps: int
    repeat: int = 0
    forward: int = 0

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0,1]."""
        return min(1.0, self.step / max(1, self.total_steps))


@dataclass(frozen=True)
class EncodedDataset:
    """A whole side run through the network in evaluation mode, for `refresh` hooks.

    Attributes:
        features: branch -> float[N,D]; logits: branch -> float[N,K].
        labels: int64[N], -1 throughout on the target; domain: int64[N]; index: int64[N] = 0..N-1.
        extras: per-sample tensors of the dataset, by name.
    """

    features: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]
    labels: Tensor
    domain: Tensor
    index: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)
