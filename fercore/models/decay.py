"""A decay of weights outside the optimiser, as the code of Ada-CM and LEAF has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fercore.models.shards import own_part


@torch.no_grad()
def shrink(model: nn.Module, rate: float, *, buffers: bool) -> None:
    """Multiply every trainable parameter by 1 - rate, and with `buffers` every float buffer of the network (Ada-CM).

    What plugins keep under `parts` is decayed as parameters only: thresholds and counts are no weights.
    """
    tensors: list[Tensor] = [own_part(p) for p in model.parameters() if p.requires_grad]
    if buffers:
        named = model.named_buffers()
        tensors += [b for name, b in named if b.is_floating_point() and not name.startswith("parts.")]
    # All tensors in a few kernels instead of one each.
    torch._foreach_mul_(tensors, 1 - rate)
