"""How the target's classes are shared out: weights for source samples wherever domains are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fercore.models.model import Model
from fercore.records.task import TaskInfo

LEAST, LARGEST = 0.1, 10.0
PART = "align/shares"
"""Where a run keeps them, with `align.class_weights`."""


class ClassShares(nn.Module):
    """Class shares of the source, known, and of the target, estimated after each epoch or given.

    Attributes:
        source, target: f[K] shares; the target's are the source's before the first estimate.
        ratio: f[K], target / source in [0.1, 10], 0 for a class that the source does not have: weights of its samples.
    """

    source: Tensor
    target: Tensor

    def __init__(self, task: TaskInfo) -> None:
        super().__init__()
        counts = [sum(source.class_counts.get(name, 0) for source in task.sources) for name in task.classes]
        shares = torch.tensor(counts, dtype=torch.float32)
        # Batches then hold every class evenly, whatever the dataset does.
        if task.batch.class_balanced:
            shares = (shares > 0).float()
        self.classes = task.classes
        self.register_buffer("source", shares / shares.sum())
        self.register_buffer("target", self.source.clone())

    @property
    def ratio(self) -> Tensor:
        """Weights of source samples by class."""
        present = self.source > 0
        return torch.where(present, (self.target / self.source.clamp_min(1e-12)).clamp(LEAST, LARGEST), 0.0)

    def by_name(self) -> dict[str, float]:
        """Return the target's shares by class."""
        return dict(zip(self.classes, self.target.tolist(), strict=True))

    def take_in(self, shares: Tensor, momentum: float = 0.9) -> dict[str, float]:
        """Take in an estimate f[K] of the target's shares; the first is taken as it is, later ones are averaged.

        Returns:
            The shares by class.
        """
        first = torch.equal(self.target, self.source)
        self.target.copy_(shares if first else torch.lerp(shares.to(self.target.dtype), self.target, momentum))
        return self.by_name()


def source_weights(model: Model, labels: Tensor, own: str = PART) -> Tensor:
    """Return what each source sample counts where domains are compared, by its class; ones where nobody weighs.

    Args:
        labels: int64[B]. own: name of the part that a method weighs by where the run has no `align.class_weights`.

    Returns:
        f[B], constants.
    """
    name = PART if PART in model.parts else own
    if name not in model.parts:
        return torch.ones(len(labels), device=labels.device)
    shares = model.parts[name]
    assert isinstance(shares, ClassShares)
    return shares.ratio[labels]
