"""What plugins may know of a side when they order its samples: no image, no path, no target label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fercore.data.domains import DomainSet
from fercore.data.table import join
from fercore.types import Side


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


def _copied(extras: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.copy() for name, values in extras.items()}


def _anonymous(subjects: tuple[str, ...]) -> tuple[str, ...]:
    numbers: dict[str, int] = {}
    return tuple(f"t{numbers.setdefault(name, len(numbers))}" if name else "" for name in subjects)
