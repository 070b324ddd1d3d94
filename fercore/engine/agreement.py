"""What the processes of a run must have alike: data, settings and weights at the start, what steps keep afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fercore.engine.several import WHERE
from fercore.errors import UserInputError

if TYPE_CHECKING:
    from fercore.engine.setup import RunContext

_OWN: dict[str, Any] = {
    "device": True,
    "data": {"sources", "target", "cache_dir", "au"},
    "model": {"weights", "init"},
    "report": {"reference"},
}
"""Settings with places, which may be called otherwise on another machine; fingerprints tell what lies there."""


def check_same_start(context: RunContext) -> None:
    """Make sure that all processes have the same data and settings, and give all of them the first one's weights.

    Raises:
        UserInputError: naming what differs; on every process.
    """
    processes = context.processes
    own = {**context.fingerprint(), "settings": context.config.model_dump_json(exclude=_OWN)}
    every = processes.everyone(own)
    for rank, other in enumerate(every):
        for part in sorted(every[0].keys() | other.keys()):
            if every[0].get(part) != other.get(part):
                kind = "settings" if part == "settings" else f"data of {part!r}"
                fix = "give every machine the same files and settings"
                raise UserInputError(f"process {rank} has other {kind} than the first", where=WHERE, fix=fix)
    model = context.model
    # Drawn alike from the seed; kinds of processors may round their first weights differently.
    processes.copy_from_first([*model.parameters(), *model.buffers()])
    if context.average is not None:
        processes.copy_from_first([*context.average.model.parameters(), *context.average.model.buffers()])


@torch.no_grad()
def level(context: RunContext) -> None:
    """Give all processes the first one's state, where steps may have left each its own."""
    train = context.config.train
    if not context.processes.several or (train.sync == "batch" and train.batch_norm == "all"):
        return
    tensors = list(context.model.buffers())
    if train.sync == "local":
        # What an epoch fills by the data may have another size on each; it is filled alike before the next step.
        sizes = context.processes.everyone([tuple(each.shape) for each in tensors])
        tensors = [each for number, each in enumerate(tensors) if len({size[number] for size in sizes}) == 1]
    context.processes.copy_from_first(tensors)
