"""What a run of pca_ifer keeps beside its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

NONE = -1


class RunState(nn.Module):
    """Where a run stands.

    Args:
        labelled: number of the source domain that is the labelled part of the target; None without one.
        scale: s of Eq 7.
        include_labelled: whether the samples of that domain are among the unlabelled ones of the target too.

    Attributes:
        started: bool, the first epoch has begun: banks are filled, and the target has its first pseudo labels.
    """

    started: Tensor

    def __init__(self, labelled: int | None, scale: float, *, include_labelled: bool = False) -> None:
        super().__init__()
        self.labelled, self.scale, self.include_labelled = labelled, scale, include_labelled
        self.register_buffer("started", torch.tensor(False))

    def of_target(self, domain: Tensor) -> Tensor:
        """Return bool[B]: which samples of the source side are labelled ones of the target."""
        # No domain has the number -1.
        return domain == (NONE if self.labelled is None else self.labelled)
