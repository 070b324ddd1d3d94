"""Less memory for a step: blocks that are worked out again for their gradient; and what a step is likely to need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fercore.errors import UserInputError
from fercore.models.parts_of_batch import drops

WHERE = "model.checkpointing"


def checkpoint_blocks(model: nn.Module, name: str, *, shared: bool) -> None:
    """Let a network keep the inputs of its blocks alone, and work the blocks out again in the backward pass.

    Args:
        model: with networks of timm or open_clip in it. name: of its backbone. shared: whether a batch has several
            processes or pieces.

    Raises:
        UserInputError: for a network without such blocks, or whose blocks would not come out the same.
    """
    takers = [module for module in model.modules() if hasattr(module, "set_grad_checkpointing")]
    fix = "leave it out; train.accumulate saves memory with every network"
    # Statistics would move twice.
    if any(isinstance(inner, _BatchNorm) for taker in takers for inner in taker.modules()):
        raise UserInputError(f"blocks of {name!r} have batch normalisation", where=WHERE, fix=fix)
    if shared and any(drops(inner) for taker in takers for inner in taker.modules()):
        what = f"blocks of {name!r} drop at random, and of a shared batch they would drop otherwise the second time"
        raise UserInputError(what, where=WHERE, fix="leave one of the two out")
    done = 0
    for taker in takers:
        try:
            taker.set_grad_checkpointing(True)  # type: ignore[operator]
            done += 1
        except (AssertionError, NotImplementedError):
            continue  # timm's word for a network that cannot
    if not done:
        raise UserInputError(f"{name!r} has no blocks to work out again", where=WHERE, fix=fix)


def bytes_of(tensors: Any) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept_for_backward(call: Callable[[], object], model: nn.Module) -> int:
    """Return the bytes that a forward keeps for its backward pass, beside the network's own tensors."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # The storage itself, so that no later one has its address.
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = call()
    del answer
    return sum(storage.nbytes() for storage in kept.values())
