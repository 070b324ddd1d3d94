"""A run of several processes: who they are, what they must have alike, and what they cannot do together."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from fercore.config import RunConfig
from fercore.errors import UserInputError
from fercore.models import Model
from fercore.models.shards import WHERE as FSDP
from fercore.models.shards import Shards, blocks_of
from fercore.processes import noticing_ends, started
from fercore.records.plan import Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from fercore.hooks import Plugin


PATIENCE = timedelta(hours=12)
"""How long a process waits for the others; that one has ended is noticed at once, by its connection."""
WHERE = "--devices, --num-nodes"


def fabric_of(config: RunConfig) -> Fabric:
    """Return the run's Fabric, connected to the other processes where there are any; the device must be resolved.

    Raises:
        UserInputError: if there are not as many processes as the settings say, or more than devices.
    """
    from lightning_fabric import Fabric

    from fercore.engine.strategies import Averaging, Dividing, environment

    asked, here = config.devices * config.num_nodes, started()
    if asked == 1 and here is None:
        return Fabric(accelerator=config.device, devices=1, precision=config.train.precision)
    if here is None or here.world != asked:
        refuse_many_devices(config)
        there = 1 if here is None else here.world
        what = f"the settings ask for {asked} processes, and {there} began this run"
        raise UserInputError(what, where=WHERE, fix="start it by fercore run, torchrun or srun, with as many")
    refuse_many_devices(config)
    cuda = config.device == "cuda"
    # What processes agree on lies in the CPU's memory, what they average where the network is.
    kind = Dividing if config.strategy == "fsdp" else Averaging
    strategy = kind(timeout=PATIENCE, process_group_backend="cpu:gloo,cuda:nccl" if cuda else "gloo")
    fabric = Fabric(
        accelerator=config.device, devices=config.devices, num_nodes=config.num_nodes, strategy=strategy,
        precision=config.train.precision, plugins=[environment()],
    )  # fmt: skip
    # It tells of every process that joins.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with noticing_ends():
        fabric.launch()
    return fabric


def places_here(config: RunConfig) -> list[dict[str, str]]:
    """Return the variables, as torchrun has them, of each process of a run on this machine.

    Raises:
        UserInputError: for several machines, unless the environment says where the first one is and which this is.
    """
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    environ, devices = os.environ, config.devices
    if config.num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= environ.keys():
        what = f"{config.num_nodes} machines, and which this is nobody says"
        fix = "set MASTER_ADDR and MASTER_PORT of the first and NODE_RANK of this one, or start by torchrun or srun"
        raise UserInputError(what, where="--num-nodes", fix=fix)
    address = environ.get("MASTER_ADDR", "127.0.0.1") if config.num_nodes > 1 else "127.0.0.1"
    port = environ["MASTER_PORT"] if config.num_nodes > 1 else str(find_free_network_port())
    node = int(environ.get("NODE_RANK", 0)) if config.num_nodes > 1 else 0
    world = {"MASTER_ADDR": address, "MASTER_PORT": port, "NODE_RANK": str(node), "GROUP_RANK": str(node),
             "WORLD_SIZE": str(devices * config.num_nodes), "LOCAL_WORLD_SIZE": str(devices)}  # fmt: skip
    return [{**world, "RANK": str(node * devices + each), "LOCAL_RANK": str(each)} for each in range(devices)]


def refuse_many_devices(config: RunConfig) -> None:
    """Refuse more processes on this machine than it has devices.

    Raises:
        UserInputError: saying how many there are.
    """
    cores = os.cpu_count() or 1
    # Processes on a CPU share its cores, and may be more than those; not many times more.
    most = torch.cuda.device_count() if config.device == "cuda" else max(8, 4 * cores)
    if config.devices > most:
        there = f"{most} CUDA devices" if config.device == "cuda" else f"{cores} CPU cores"
        fix = f"take {most} at most"
        raise UserInputError(f"{config.devices} devices asked for, and {there} are there", where="--devices", fix=fix)


def refuse_alone(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Refuse what only one process can do.

    Raises:
        UserInputError: naming it, and why.
    """
    fix = "take --devices 1"
    if any(stage.stream for stage in stages):
        what = "a stream is answered by one process: each batch is adapted to before the next one comes"
        raise UserInputError(what, where="--devices", fix=fix)
    if config.train.compile:
        what = "a compiled network knows nothing of the other processes' rows"
        raise UserInputError(what, where="train.compile", fix=f"take train.compile=false, or {fix}")


def shards_of(config: RunConfig, plugins: Sequence[Plugin], model: Model) -> Shards | None:
    """Return how processes divide a network's weights, before they do; None where each has all of them.

    Raises:
        UserInputError: for what cannot do with parts of weights, naming it, and why.
    """
    if config.strategy != "fsdp" or config.devices * config.num_nodes == 1:
        return None
    fix = "take --strategy ddp"
    for plugin in plugins:
        if reason := plugin.needs_whole_weights():
            what = f"{plugin.name} cannot run with a part of the weights in each process: {reason}"
            raise UserInputError(what, where=FSDP, fix=fix)
    train = config.train
    if train.sync == "local":
        what = (
            "processes go through the blocks together, and with losses of their own one may have none to go back from"
        )
        raise UserInputError(what, where=f"train.sync, {FSDP}", fix=f"take train.sync=batch, or {fix}")
    if train.precision == "16-mixed":
        what = "each process would scale its part of the gradients by itself"
        raise UserInputError(what, where=f"train.precision, {FSDP}", fix=f"take train.precision=bf16-mixed, or {fix}")
    return Shards(model, blocks_of(model))
