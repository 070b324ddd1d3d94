"""The batch of a step as all its processes have it: encoded rows and images of the others, with their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fercore.data.batches.loader import Whole
from fercore.models.parts_of_batch import Rows
from fercore.processes import Processes
from fercore.records.step import Batch, DomainBatch, Encoded, Side


@dataclass(frozen=True)
class Gathering:
    """Puts together what each process has of a step's batch, in the order in which one process would have it.

    Attributes:
        whole: what all of them drew. processes: this one among them.
        joined: the losses look at all rows; False = at this process's own. statistics: as for `Rows`.
    """

    whole: Whole
    processes: Processes
    joined: bool = True
    statistics: bool = True

    def rows(self, sides: Sequence[Side]) -> Rows:
        """Return which rows this process has of a batch of these sides, one after another."""
        places, start = [], 0
        for side in sides:
            places.append(self.whole.places[side][self.processes.rank] + start)
            start += len(self.whole.batch.side(side))
        return Rows(torch.cat(places), start, self.processes, self.statistics)

    def encoded(self, side: Side, own: Encoded) -> Encoded:
        """Return the features and logits of all processes' rows.

        Their gradient reaches the rows that this process has; it is that of the loss of every process, all of which
        work out the same one.
        """
        named = [(part, name, t) for part in ("features", "logits") for name, t in getattr(own, part).items()]
        joined = dict(zip([each[:2] for each in named], self.tensors(side, [each[2] for each in named]), strict=True))
        parts: dict[str, dict[str, Tensor]] = {"features": {}, "logits": {}}
        for (part, name), tensor in joined.items():
            parts[part][name] = tensor
        return Encoded(**parts)

    def tensors(self, side: Side, own: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors of all processes' rows f[B,...], in few calls."""
        joined: dict[int, Tensor] = {}
        kinds: dict[tuple[torch.dtype, bool], list[int]] = {}
        for number, tensor in enumerate(own):
            # What has no gradient stays without one: a step whose terms have none is skipped.
            kinds.setdefault((tensor.dtype, tensor.requires_grad), []).append(number)
        for numbers in kinds.values():
            flat = [own[number].flatten(1) for number in numbers]
            together = self._gather(side, torch.cat(flat, 1))
            for number, columns in zip(
                numbers, torch.split(together, [each.shape[1] for each in flat], 1), strict=True
            ):
                joined[number] = columns.reshape(-1, *own[number].shape[1:])
        return [joined[number] for number in range(len(own))]

    def _gather(self, side: Side, own: Tensor) -> Tensor:
        joined: Tensor = _Gather.apply(own, self.whole.places[side], self.processes)
        return joined

    def batch(self, own: Batch, device: torch.device) -> Batch:
        """Return the batch of all processes; images come from the others as they are asked for."""
        whole = self.whole.batch.to(device)
        sides = (replace(whole.side(s), images=_Images(self, s, own.side(s))) for s in ("source", "target"))  # type: ignore[arg-type]
        return Batch(*sides)


class _Images(Mapping[str, Tensor]):
    """Images of all processes by view: a method that looks at none has none sent."""

    def __init__(self, gathering: Gathering, side: Side, own: DomainBatch) -> None:
        self._gathering, self._side, self._own = gathering, side, own
        self._kept: dict[str, Tensor] = {}

    def __getitem__(self, view: str) -> Tensor:
        if view not in self._kept:
            # Every process runs the same hooks, and asks in the same place.
            self._kept[view] = self._gathering.tensors(self._side, [self._own.images[view]])[0]
        return self._kept[view]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own.images)

    def __len__(self) -> int:
        return len(self._own.images)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, places: Sequence[Tensor], processes: Processes) -> Tensor:
        ctx.places, ctx.world = places[processes.rank].to(own.device), processes.world
        parts = processes.rows(own.detach(), [len(each) for each in places])
        order = torch.cat(list(places)).to(own.device)
        joined = torch.empty_like(torch.cat(parts))
        joined[order] = torch.cat(parts)
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Times the processes, as gradients of weights are averaged over them: together the gradient of one process.
        return gradient[ctx.places] * ctx.world, None, None
