"""What plugins may know of a side when they order its samples: no image, no path, no target label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fercore.config import RunConfig
from fercore.data.domains.domain_set import DomainSet
from fercore.data.spec import FORMATS, DomainSpec
from fercore.data.table import join
from fercore.records.step import Side
from fercore.records.task import BatchPolicy, DatasetInfo, FewShots, TaskInfo


@dataclass(frozen=True, eq=False)
class SideInfo:
    """The samples of a side, for samplers; positions are those of `DomainBatch.index`.

    It serves as the `data_source` of torch's samplers, which ask for its length alone.

    Attributes:
        labels: int64[n] of the run's classes; -1 throughout on the target.
        domain: int64[n] number of the source; 0 on the target.
        subjects: "" = unknown; on the target "t0", "t1", ...: who is the same person, and no more.
        extras: name -> array[n,...], those of `DomainBatch.extras`; none of the target's holds an annotation.
    """

    labels: np.ndarray
    domain: np.ndarray
    subjects: tuple[str, ...]
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def side_info(domains: DomainSet, side: Side) -> SideInfo:
    """Return what is open about a side's samples: of the joined sources, or of the label-blind adaptation part.

    The arrays are copies: nobody changes the data through them.
    """
    if side == "source":
        table = join(domains.sources)
        return SideInfo(table.labels.copy(), table.domain.copy(), table.subjects, _copied(table.extras))
    table = domains.adaptation.without_labels()
    return SideInfo(table.labels, table.domain.copy(), _anonymous(table.subjects), _copied(table.extras))


def task_info(
    config: RunConfig,
    classes: Sequence[str],
    sizes: tuple[Sequence[int], int],
    counts: Sequence[Mapping[str, int]] = (),
) -> TaskInfo:
    """Return what plugins may know of a run.

    Args:
        config: the run's. classes: names in the order of the labels. sizes: training samples of each source, and of
            the target. counts: samples of each class, of each source; empty = unknown.
    """
    task, settings = config.task, config.data
    target, numbers = task.target, counts or [{}] * len(task.sources)
    options: dict[str, FewShots] = {"shots": "shots", "fraction": "fraction", "label_count": "labels"}
    several = len(task.sources) > 1 and settings.source_sampling == "balanced"
    return TaskInfo(
        classes=tuple(classes),
        sources=tuple(dataset_info(*each) for each in zip(task.sources, sizes[0], numbers, strict=True)),
        target=dataset_info(target, sizes[1]),
        few_shot_domain=task.few_shot_domain,
        few_shots=next((name for option, name in options.items() if option in target.options), None),
        include_labelled=target.flag("include_labelled"),
        batch=BatchPolicy(
            settings.source_step, settings.target_batch, config.train.steps_per_epoch, settings.class_balanced, several
        ),
    )


def dataset_info(spec: DomainSpec, n: int, class_counts: Mapping[str, int] | None = None) -> DatasetInfo:
    """Return which dataset a SPEC names, with its number of training samples."""
    named = FORMATS[spec.format].dataset_option
    dataset = spec.options.get(named, "") if named else spec.format
    return DatasetInfo(spec.format, dataset, n, dict(class_counts or {}))


def _copied(extras: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.copy() for name, values in extras.items()}


def _anonymous(subjects: tuple[str, ...]) -> tuple[str, ...]:
    numbers: dict[str, int] = {}
    return tuple(f"t{numbers.setdefault(name, len(numbers))}" if name else "" for name in subjects)
