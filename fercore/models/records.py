"""Modules that keep what a method remembers of a dataset: buffers as long as the data, and pseudo labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SizedByData(nn.Module):
    """Buffers whose shapes follow from the data, which nobody knows when the network is built.

    Loading a state takes over its shapes; types and names stay as they were registered.

    Args:
        buffers: name -> what it holds at first.
    """

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def put(self, name: str, value: Tensor) -> None:
        """Replace what a buffer holds; its type and device stay."""
        old = self.get_buffer(name)
        # A new tensor: a write into the old one would break the backward pass of a forward that has used it.
        self.register_buffer(name, value.detach().to(old.device, old.dtype).clone())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name, old in list(self.named_buffers(recurse=False)):
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.shape != old.shape:
                # Before torch compares shapes; it then copies the values in.
                self.register_buffer(name, old.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class PseudoLabelRecord(SizedByData):
    """Pseudo labels that a method gives to the whole adaptation part of the target.

    A method that keeps one in `model.parts["<plugin>/<name>"]` finds in result.json how good they are: the engine's
    evaluator compares them with the labels that the target may have, which no plugin sees.

    Attributes:
        probs: float[N,K] in the order of the adaptation part (`DomainBatch.index`); a hard label is one-hot.
        weight: float[N] in [0,1]; 0 = the sample has no pseudo label.
    """

    probs: Tensor
    weight: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__({"probs": torch.zeros(0, num_classes), "weight": torch.zeros(0)})

    def write(self, probs: Tensor, weight: Tensor) -> None:
        """Keep pseudo labels.

        Args:
            probs: float[N,K]. weight: float or bool[N].
        """
        if probs.ndim != 2 or weight.shape != probs.shape[:1]:
            raise ValueError(f"probs {tuple(probs.shape)} and weight {tuple(weight.shape)} do not fit")
        self.put("probs", probs)
        self.put("weight", weight)
