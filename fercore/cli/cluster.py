"""Options of commands that a Ray cluster may run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fercore.errors import UserInputError

if TYPE_CHECKING:
    from fercore.cluster import Machines

OnExecutor = Annotated[
    Literal["local", "ray"], typer.Option("--executor", help="local = this machine; ray = those of a Ray cluster.")
]
OnAddress = Annotated[
    str | None, typer.Option("--address", help="Ray cluster: HOST:PORT or auto; without it one on this machine.")
]
OnCpus = Annotated[float, typer.Option("--num-cpus", min=0, help="CPUs of a task on the cluster, or a fraction.")]
OnGpus = Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs of a task on the cluster, or a fraction.")]


def machines_of(executor: str, address: str | None, num_cpus: float, num_gpus: float) -> Machines | None:
    """Return what is asked of a cluster; None = this machine does it.

    Raises:
        UserInputError: for a cluster's option without one.
    """
    if executor == "local":
        if address is not None:
            raise UserInputError("--address is of a cluster", where="fercore", fix="add --executor ray")
        return None
    from fercore.cluster import Machines

    return Machines(address, num_cpus, num_gpus)
