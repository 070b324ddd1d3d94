"""How far images are from what a model was trained on: the kernel distance between their features and stored ones.

Squared MMD (Gretton et al., JMLR 2012, equation 3: without bias in the number of samples) by the project's own
operator, with one bandwidth, the source's, so that distances of different images to one source can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fercore import ops

SAMPLE = 512
"""Images of a domain that are compared."""
LEAST = 50
"""Images from which a distance is told."""
HALVES = 20
KERNELS = 5


def distance(source: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> float:
    """Return the squared MMD between two samples, the mean over branches; about 0 if both are of one domain.

    Args:
        source, others: branch -> features float[N,D], float[M,D], N and M at least 2.
    """
    gaps = [_mmd(torch.from_numpy(source[name]).float(), torch.from_numpy(others[name]).float()) for name in source]
    return float(np.mean(gaps))


def _mmd(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    # The mean squared distance of two different rows, as the operator would take it of both samples together.
    bandwidth = (2 * x.var(dim=0).sum()).clamp(min=1e-12)
    wx, wy = torch.full((n,), 1 / n), torch.full((m,), 1 / m)

    def squared(first: Tensor, second: Tensor) -> float:
        return float(ops.weighted_mmd(x, y, first, second, num_kernels=KERNELS, bandwidth=bandwidth))

    within_x, within_y = squared(wx, torch.zeros(m)), squared(torch.zeros(n), wy)
    between = (within_x + within_y - squared(wx, wy)) / 2
    # A row's kernel with itself is KERNELS, and no distance between two images.
    unbiased = [(within * k - KERNELS) / (k - 1) for within, k in ((within_x, n), (within_y, m))]
    return sum(unbiased) - 2 * between


def spread(source: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray], *, seed: int = 0) -> float:
    """Return the standard deviation that the distance of such a sample has, by halves of it.

    Half of a sample, drawn without putting back, varies as the whole does: Shao and Wu, Annals of Statistics 1989.
    """
    n = len(next(iter(others.values())))
    rng = np.random.default_rng(seed)
    halves = (rng.permutation(n)[: n // 2] for _ in range(HALVES))
    return float(np.std([distance(source, {name: rows[half] for name, rows in others.items()}) for half in halves]))


@dataclass
class FeatureSample:
    """A random sample of features that come one by one, in constant memory (Vitter, 1985, algorithm R).

    Attributes:
        seen: how many came.
    """

    size: int = SAMPLE
    seen: int = 0
    _rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, features: Mapping[str, np.ndarray]) -> None:
        """Take in features by branch, float[F,D]."""
        for i in range(len(next(iter(features.values()), ()))):
            at = self.seen if self.seen < self.size else int(self._rng.integers(0, self.seen + 1))
            self.seen += 1
            if at >= self.size:
                continue
            for name, rows in features.items():
                held = self._rows.setdefault(name, [])
                held[at : at + 1] = [rows[i].copy()]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the sample by branch."""
        return {name: np.stack(rows) for name, rows in self._rows.items()}
