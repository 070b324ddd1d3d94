"""The processes that share one run: which one this is, and what they tell each other.

All of them draw the same batch, and each takes its part of it. Without others every call here does nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from fercore.errors import UserInputError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
LAUNCHED = "FERCORE_LAUNCHED"
"""Set in processes that `fercore.isolation.group` started, which tell their end to it and print no error."""
_BUCKET = 32 * 2**20
ANSWER = 20.0
"""Seconds in which processes answer each other once one has ended: each notices when it next waits for the others."""
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "socket", "timed out", "abort")


class ProcessLostError(RuntimeError):
    """Another process of the run has ended, so that this one cannot go on.

    Args:
        text: what is said of it. first: whether this process is the one of those left that says it.
    """

    def __init__(self, text: str, *, first: bool | None = None) -> None:
        super().__init__(text)
        self.first = first_here() if first is None else first


@dataclass(frozen=True)
class Started:
    """How a launcher started this process among others.

    Attributes:
        rank: 0-based number of the process. world: processes. local_world: of them on this machine.
    """

    rank: int
    world: int
    local_world: int


def started(environ: Mapping[str, str] = os.environ) -> Started | None:
    """Return how torchrun, Slurm or `fercore run --devices` started this process; None = it is alone.

    Raises:
        UserInputError: for an environment that says no whole numbers.
    """
    # An interactive shell inside an allocation has Slurm's variables too, and is no task of `srun`.
    slurm = "SLURM_STEP_ID" in environ and environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    try:
        if "RANK" in environ and "WORLD_SIZE" in environ:
            world = int(environ["WORLD_SIZE"])
            found = Started(int(environ["RANK"]), world, int(environ.get("LOCAL_WORLD_SIZE", world)))
        elif slurm and "SLURM_PROCID" in environ:
            world, nodes = int(environ.get("SLURM_NTASKS", 1)), int(environ.get("SLURM_NNODES", 1))
            found = Started(int(environ["SLURM_PROCID"]), world, world // nodes)
        else:
            return None
    except ValueError as error:
        fix = "start it by torchrun, srun or fercore run --devices"
        raise UserInputError(f"a launcher's variables are no numbers: {error}", where="environment", fix=fix) from None
    return found if found.world > 1 else None


def first_here() -> bool:
    """Say whether this process writes for the run."""
    here = started()
    return here is None or here.rank == 0


def speaks() -> bool:
    """Say whether this process tells of an error: the first one, unless who started it hears of it."""
    return first_here() and LAUNCHED not in os.environ


@dataclass(frozen=True)
class Processes:
    """This process among those of its run.

    Attributes:
        rank: 0-based number of this process. world: processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.world > 1

    def add(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes, in place."""
        if self.several:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def largest(self, numbers: Sequence[int]) -> list[int]:
        """Return the largest of each number over the processes."""
        if not self.several:
            return list(numbers)
        import torch
        import torch.distributed as dist

        values = torch.tensor(list(numbers), dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [int(value) for value in values]

    def stack(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, of one shape, one after another in a new first dimension."""
        import torch
        import torch.distributed as dist

        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def rows(self, tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Return the rows of all processes, f[n_r, ...] each.

        Args:
            tensor: f[n_rank, ...]. sizes: n_0, n_1, ...
        """
        most = max(sizes)
        padded = tensor.new_zeros((most, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        return [part[:size] for part, size in zip(self.stack(padded), sizes, strict=True)]

    def everyone(self, value: T) -> list[T]:
        """Return what each process has, in their order; values are pickled."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """Return what the first process has."""
        if not self.several:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors of one shape everywhere the first process's values, in place."""
        if not self.several:
            return
        import torch.distributed as dist

        for tensor in tensors:
            # What lies in another order in memory is sent as values.
            dense = tensor.detach().contiguous()
            dist.broadcast(dense, 0)
            if dense.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(dense)

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by their mean over the processes; a gradient that a process lacks is 0 to the others.

        Parameters that have none anywhere stay without.
        """
        if not self.several:
            return
        import torch

        some = self.largest([int(p.grad is not None) for p in parameters])
        kinds: dict[tuple[Any, Any], list[Tensor]] = {}
        for parameter, there in zip(parameters, some, strict=True):
            if there:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                kinds.setdefault((parameter.grad.dtype, parameter.grad.device), []).append(parameter.grad)
        for gradients in kinds.values():
            for bucket in _buckets(gradients):
                flat = self.add(torch.cat([each.reshape(-1) for each in bucket])).div_(self.world)
                for gradient, mean in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
                    gradient.copy_(mean.view(gradient.shape))

    def together(self, call: Callable[[], T]) -> T:
        """Return what a call returns here; where the input is wrong for one process it is for all, by the same line.

        Raises:
            UserInputError: of the first process that has one.
        """
        if not self.several:
            return call()
        answer, fault = None, None
        try:
            answer = call()
        except UserInputError as error:
            fault = error
        for rank, other in enumerate(self.everyone(None if fault is None else (fault.what, fault.where, fault.fix))):
            if other is not None:
                what, where, fix = other
                # The first process has the same input, as a rule, and then speaks for all.
                raise UserInputError(what if rank == 0 else f"process {rank}: {what}", where=where, fix=fix) from fault
        return answer  # type: ignore[return-value]


ALONE_HERE = Processes()


@contextmanager
def noticing_ends() -> Iterator[None]:
    """Say of an error of the connection that another process has ended.

    Raises:
        ProcessLostError: in place of that error.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, ProcessLostError) or not any(word in str(error).lower() for word in _LOST):
            raise
        raise ProcessLostError("another process of the run has ended") from error


def missing(processes: Processes) -> tuple[list[int], bool]:
    """Return which processes have ended or do not answer, once this one has noticed, and whether it is to say so.

    Those that are left put their numbers where processes meet as they begin.
    """
    absent = [rank for rank in range(processes.world) if rank != processes.rank]
    if len(absent) < 2:
        return absent, True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    here, until, met, says = "fercore/here/{}".format, time.monotonic() + ANSWER, False, False
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(*place, is_master=False, timeout=timedelta(seconds=ANSWER))
        store.set(here(processes.rank), "1")
        met = True
        # Nothing to wait for once one alone is absent: one has ended.
        while len(absent) > 1 and time.monotonic() < until:
            time.sleep(0.1)
            absent = [rank for rank in absent if not store.check([here(rank)])]
        says = store.add("fercore/said", 1) == 1
    except RuntimeError:
        # Gone before this one came: with the first process. Gone since: the first process has said it.
        return ([0], processes.rank == 1) if not met else (absent, False)
    return absent, says


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in runs of some megabytes: one call a run, not one each, and no second copy of all."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
        if size >= _BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
