"""How Fabric connects the processes of a run, and leaves its module to the engine."""

from __future__ import annotations

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn


class Averaging(DDPStrategy):
    """Each process has the whole network; gradients are averaged once a backward pass is over (`PhaseRunner`)."""

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Return the module as it is."""
        return module


def environment() -> ClusterEnvironment:
    """Return what says where the first process is and which this one is, by who started it."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return LightningEnvironment() if "RANK" in os.environ else SLURMEnvironment()
