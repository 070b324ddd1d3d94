"""Networks whose blocks' weights are divided among processes, each of which has a part of every tensor (FSDP)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from fercore.errors import UserInputError
from fercore.models.model import Model

WHERE = "--strategy fsdp"


def divided(tensor: Tensor) -> bool:
    """Say whether a tensor is one that processes have parts of."""
    # Not by its class, whose import takes a second that runs without others need not wait.
    return hasattr(tensor, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor, without a gradient and in the same memory: its part, or all of it."""
    plain = tensor.detach()
    return cast("Any", plain).to_local() if divided(plain) else plain


def whole_of(part: Tensor, like: Tensor) -> Tensor:
    """Return a tensor of which processes have the parts that they have of `like`; all call it together."""
    from torch.distributed.tensor import DTensor

    mesh, places = cast("Any", like).device_mesh, cast("Any", like).placements
    joined = DTensor.from_local(part, mesh, places, shape=like.shape, stride=like.stride())
    return joined.full_tensor()


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor that every process has, as it has one of `like`."""
    from torch.distributed.tensor import distribute_tensor

    mesh, places = cast("Any", like).device_mesh, cast("Any", like).placements
    # No rank sends: each cuts its part from its own copy.
    return distribute_tensor(whole.to(like.device), mesh, places, src_data_rank=None).to_local()


def blocks_of(model: Model) -> list[nn.Module]:
    """Return the blocks of the backbone that are trained: two or more modules of one class in a list, the innermost.

    Raises:
        UserInputError: if there are none.
    """
    found = _blocks_in(model.backbone)
    if not found:
        fix = "train a network of blocks, such as model.backbone=vit_base_patch16_224, or take --strategy ddp"
        what = f"{type(model.backbone).__name__} has no blocks that are trained, whose weights to divide"
        raise UserInputError(what, where=WHERE, fix=fix)
    return found


def _blocks_in(module: nn.Module) -> list[nn.Module]:
    inner = [block for child in module.children() for block in _blocks_in(child)]
    if inner or not isinstance(module, nn.ModuleList | nn.Sequential):
        return inner
    children = [*module.children()]
    trained = [each for each in children if any(p.requires_grad for p in each.parameters())]
    # A layer by itself has a tensor or two; blocks have layers of their own.
    alike = len({type(each) for each in children}) == 1 and any(True for _ in children[0].children())
    return trained if alike and len(trained) > 1 else []


class Shards:
    """A network in training whose blocks' weights are divided, and beside it the whole one for whoever needs that.

    Args:
        model: the network. blocks: of it, to be divided.
    """

    def __init__(self, model: Model, blocks: Sequence[nn.Module]) -> None:
        self._model, self._blocks = model, [*blocks]
        self._shell: Model | None = None
        self._average: Model | None = None

    @property
    def model(self) -> Model:
        """The network with whole weights; inside `whole` only, once they are divided."""
        return self._model if self._shell is None else self._shell

    def divide(self, device: torch.device, average: Model | None) -> None:
        """Let each process keep its part of every weight of the blocks; all have the same weights before.

        Args:
            device: that the network is on. average: a copy of the network whose weights follow those in training.
        """
        if self._shell is not None:
            return
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        self._shell = _shell_of(self._model, self._blocks)
        for block in self._blocks:
            for parameter in block.parameters():
                # Parts are cut from rows in the order of memory.
                parameter.data = parameter.data.contiguous()
            # Each by itself, under no common root: methods call parts of a network as they like, and a root's forward
            # would have to come first.
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        if average is not None:
            self._average = average
            for (owner, last), parameter in self._places(average):
                _put(owner, last, part_of(owner.get_parameter(last).detach(), parameter).clone())

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have the whole weights in `model` on every process; all processes enter it together."""
        if self._shell is None:
            yield
            return
        # As the network's are, which the evaluator then leaves as it finds them.
        self._shell.train(self._model.training)
        kept: list[tuple[nn.Module, str, nn.Parameter]] = []
        try:
            for (owner, last), parameter in self._places(self._shell):
                kept.append((owner, last, owner.get_parameter(last)))
                _put(owner, last, cast("Any", parameter.detach()).full_tensor())
            for (owner, last), parameter in [] if self._average is None else self._places(self._average):
                kept.append((owner, last, owner.get_parameter(last)))
                _put(owner, last, whole_of(owner.get_parameter(last).detach(), parameter))
            yield
        finally:
            for owner, last, part in kept:
                owner.register_parameter(last, part)

    def _places(self, network: Model) -> list[tuple[tuple[nn.Module, str], nn.Parameter]]:
        """Return where a network of the same modules has each weight that is divided, and that weight in training."""
        named = [(name.rpartition("."), p) for name, p in self._model.named_parameters() if divided(p)]
        return [((network.get_submodule(owner), last), p) for (owner, _, last), p in named]


def _put(owner: nn.Module, last: str, tensor: Tensor) -> None:
    owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))


def _nothing() -> nn.Parameter:
    return nn.Parameter(torch.empty(0), requires_grad=False)


def _shell_of(model: Model, blocks: Sequence[nn.Module]) -> Model:
    """Return the same network without the blocks' weights: what holds no block is shared, tensors are too."""
    inside = {id(module) for block in blocks for module in block.modules()}
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo |= {id(p): _nothing() for block in blocks for p in block.parameters()}
    for module in model.modules():
        if not any(id(each) in inside for each in module.modules()):
            memo[id(module)] = module
    return copy.deepcopy(model, memo)
