"""How Fabric connects the processes of a run, and leaves its module to the engine."""

from __future__ import annotations

import os

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from fercore.models.shards import divided, own_part
from fercore.processes import Processes


class Averaging(DDPStrategy):
    """Each process has the whole network; gradients are averaged once a backward pass is over (`PhaseRunner`)."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Return the module as it is."""
        return module


class Dividing(Averaging):
    """Each process has a part of the weights of the blocks (`Shards`); gradients of all others are averaged.

    Fabric's own strategies for that divide what they wrap; here hooks have the plain network.
    """

    def clip_gradients_norm(  # type: ignore[override]
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        max_norm: float,
        norm_type: float = 2.0,
        error_if_nonfinite: bool = False,
    ) -> Tensor:
        """Scale gradients so that their norm over the whole network is at most `max_norm`, and return it as it was."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        parts = [own_part(gradient) for gradient in gradients]
        if not parts:
            return torch.zeros(())
        squares = torch.stack([part.norm(norm_type) ** norm_type for part in parts])
        mine = torch.tensor([divided(gradient) for gradient in gradients], device=squares.device)
        # What every process has whole is counted once.
        total = squares[~mine].sum() + Processes(self.global_rank, self.world_size).add(squares[mine].sum())
        norm: Tensor = total ** (1 / norm_type)
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for part in parts:
            part.mul_(factor)
        return norm


def environment() -> ClusterEnvironment:
    """Return what says where the first process is and which this one is, by who started it."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return LightningEnvironment() if "RANK" in os.environ else SLURMEnvironment()
