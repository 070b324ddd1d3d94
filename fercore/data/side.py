"""What plugins may know of a side when they order its samples: no image, no path, no target label."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    labels: np.ndarray
    domain: np.ndarray
    subjects: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def side_info(domains: DomainSet, side: Side) -> SideInfo:
    """Return what is open about a side's samples: of the joined sources, or of the label-blind adaptation part.

    The arrays are copies: nobody changes the data through them.
    """
    if side == "source":
        table = join(domains.sources)
        return SideInfo(table.labels.copy(), table.domain.copy(), table.subjects)
    table = domains.adaptation
    return SideInfo(np.full(len(table), -1, dtype=np.int64), table.domain.copy(), _anonymous(table.subjects))


def _anonymous(subjects: tuple[str, ...]) -> tuple[str, ...]:
    numbers: dict[str, int] = {}
    return tuple(f"t{numbers.setdefault(name, len(numbers))}" if name else "" for name in subjects)
