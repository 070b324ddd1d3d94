"""A moving average of a network's parameters, which answers beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fercore.models.model import Model
from fercore.models.records import SizedByData
from fercore.models.statistics import forward_without_bn_update
from fercore.records.step import Encoded


class Teacher(SizedByData):
    """The averaged parameters in one row: add-ons may give the network more than it is built with."""

    def __init__(self) -> None:
        super().__init__({"weights": torch.zeros(0)})

    def encode(self, model: Model, images: Tensor) -> Encoded:
        """Return what the teacher makes of images f[B,3,H,W], by the batch's statistics and without a gradient."""
        with torch.no_grad():
            return forward_without_bn_update(model, images, self.parameters_of(model))

    def parameters_of(self, model: Model) -> Mapping[str, Tensor]:
        """Return the teacher's parameters by name."""
        named = dict(model.named_parameters())
        sizes = [p.numel() for p in named.values()]
        parts = torch.split(self._row(model), sizes)  # type: ignore[no-untyped-call]
        return {name: row.view_as(p) for (name, p), row in zip(named.items(), parts, strict=True)}

    def follow(self, model: Model, decay: float) -> None:
        """Move towards the network."""
        self._row(model).lerp_(_in_a_row(model), 1 - decay)

    def _row(self, model: Model) -> Tensor:
        # At the first use, when add-ons have attached what they have: the teacher starts as the student.
        if not len(self.get_buffer("weights")):
            self.put("weights", _in_a_row(model))
        return self.get_buffer("weights")


def _in_a_row(model: Model) -> Tensor:
    """Return all parameters as one vector, each in the order of its indices whatever its memory format."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
