"""Half precision widened where digits count: distances, small temperatures, sums of many probabilities."""

from __future__ import annotations

import torch
from torch import Tensor


def to_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is in float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
