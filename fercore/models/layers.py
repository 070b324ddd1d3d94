"""Layers on rows of features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation of float[n,D]; a row that comes alone has no variance, and passes as in evaluation."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows."""
        if self.training and len(rows) < 2:
            return F.batch_norm(rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        normalised: Tensor = super().forward(rows)
        return normalised
