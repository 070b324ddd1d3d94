"""The model of a run: backbone, branches, heads, and the parts that plugins keep in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from fercore.records.step import Encoded

NamedTensors: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Features and logits by branch."""
Wrap: TypeAlias = Callable[[nn.Module], Callable[[Tensor], NamedTensors]]
"""What a network's forward goes through: device, precision, compiling."""


class Model(nn.Module):
    """A backbone with one or more branches, each with a classification head.

    Args:
        backbone: float[B,3,H,W] -> whatever the branches take (a feature map or a vector).
        branches: branch name -> module from the backbone's output to float[B,D].
        heads: branch name -> module float[B,D] -> float[B,K]; the same names as `branches`.
        mean, std: channel statistics that input images (scaled to [0,1]) are normalised with.

    Attributes:
        parts: "<plugin>/<part>" -> module; everything a plugin keeps past a call lives here.
    """

    def __init__(
        self,
        backbone: nn.Module,
        branches: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        if set(branches) != set(heads):
            raise ValueError(f"branches {sorted(branches)} and heads {sorted(heads)} must have the same names")
        self.backbone = backbone
        self.branches = nn.ModuleDict(dict(branches))
        self.heads = nn.ModuleDict(dict(heads))
        self.parts = nn.ModuleDict()
        self.mean, self.std = mean, std
        self.run_through(lambda network: network)

    def forward(self, images: Tensor) -> Encoded:
        """Encode images float[B,3,H,W] into features float[B,D] and logits float[B,K] per branch."""
        network: Callable[[Tensor], NamedTensors] = self.__dict__["_network"]
        return Encoded(*network(images))

    def run_through(self, wrap: Wrap) -> None:
        """Send every forward through `wrap(network)`, e.g. Lightning Fabric's module for device, precision and DDP.

        The wrapped module lies beside the module tree, so names of parameters and state stay as they are.
        """
        self.__dict__["_network"] = wrap(Network(self))


class Network(nn.Module):
    """A model's forward on plain dictionaries, which wrappers can look into."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> NamedTensors:
        """Encode images f[B,3,H,W] into features and logits by branch."""
        model = self.model
        shared = model.backbone(images)
        features = {name: branch(shared) for name, branch in model.branches.items()}
        return features, {name: model.heads[name](feature) for name, feature in features.items()}
