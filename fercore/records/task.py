"""What a run is about, as plugins may know it: classes, datasets, labels. No path and no label of the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

FewShots: TypeAlias = Literal["shots", "fraction", "labels"]


@dataclass(frozen=True)
class DatasetInfo:
    """One dataset of a run.

    Attributes:
        format: as in the SPEC ("rafdb", "folder", "list", ...).
        dataset: which dataset it is: the format's name, or for a format of several datasets the one that is named.
        n: samples to train on.
        class_counts: class name -> labelled samples; empty for an unlabelled dataset.
    """

    format: str
    dataset: str
    n: int
    class_counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchPolicy:
    """How the steps of a run draw their samples, where neither a stage nor a sampler says otherwise.

    Attributes:
        source, target: samples a step. steps_per_epoch: None = a pass over the side that lasts longer.
        class_balanced: labelled samples come evenly from the classes. domain_balanced: and from the sources.
    """

    source: int
    target: int
    steps_per_epoch: int | None
    class_balanced: bool
    domain_balanced: bool


@dataclass(frozen=True)
class TaskInfo:
    """Classes, datasets and batches of a run.

    Attributes:
        classes: names, in the order of the labels.
        sources: labelled datasets, as `DomainBatch.domain` numbers them. target: the unlabelled one.
        few_shot_domain: number of the source that holds labelled samples of the target; None without one.
        few_shots: the option that asks for them; None without one.
        include_labelled: those samples are among the unlabelled ones of the target too.
        batch: how steps draw samples.
        source_features: branch -> f[N,D], features of images that the trained model of `--init` was trained on, where
            it carries some.
    """

    classes: tuple[str, ...]
    sources: tuple[DatasetInfo, ...]
    target: DatasetInfo
    few_shot_domain: int | None
    few_shots: FewShots | None
    include_labelled: bool
    batch: BatchPolicy
    source_features: Mapping[str, Tensor] = field(default_factory=dict)
