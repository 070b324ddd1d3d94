"""What a trained network says of whole datasets, and what a report may know of a finished run. Arrays, no tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Outputs:
    """A table run through the network.

    Attributes:
        probs: float[N,K]; features, logits: branch -> array[N,...]; labels: int64[N] of the table, -1 = unknown.
    """

    probs: np.ndarray
    features: dict[str, np.ndarray]
    logits: dict[str, np.ndarray]
    labels: np.ndarray


@dataclass(frozen=True)
class Samples:
    """Samples without their images.

    Attributes:
        labels: int64[N], -1 = unknown. domain: int64[N], number of the source; 0 on the target.
        extras: name -> array[N,...], as in `DomainBatch.extras`.
    """

    labels: np.ndarray
    domain: np.ndarray
    extras: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class FinishedRun:
    """What a report is made from, once the result is worked out: labels of the target are among it.

    No hook of a method is handed this: it goes to the function `report` of an installed package, after training.

    Attributes:
        classes: by name. units: action units in the extras; empty without any.
        specs: of the sources. names: of the sources, and of the target as the last.
        source: samples of all sources. adaptation: of the target's adaptation part, with the labels it has.
        outputs: runs all sources, or the target's test part, through the reported network.
    """

    classes: tuple[str, ...]
    units: tuple[str, ...]
    specs: tuple[str, ...]
    names: tuple[str, ...]
    source: Samples
    adaptation: Samples
    outputs: Callable[[Literal["source", "test"]], Outputs]
