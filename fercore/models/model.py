"""The model of a run: backbone, branches, heads, and the parts that plugins keep in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fercore.records.step import Encoded


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

    def forward(self, images: Tensor) -> Encoded:
        """Encode images float[B,3,H,W] into features float[B,D] and logits float[B,K] per branch."""
        shared = self.backbone(images)
        features = {name: branch(shared) for name, branch in self.branches.items()}
        logits = {name: self.heads[name](feature) for name, feature in features.items()}
        return Encoded(_widened(features), _widened(logits))

    def width(self, branch: str = "main") -> int:
        """Return the number D of a branch's features, as the first linear layer of its head takes them.

        Raises:
            KeyError: if there is no such branch. TypeError: if its head has no linear layer.
        """
        linear = next((layer for layer in self.heads[branch].modules() if isinstance(layer, nn.Linear)), None)
        if linear is None:
            raise TypeError(f"the head of branch {branch!r} has no linear layer")
        return linear.in_features


def _widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 in place of the half precision that autocast runs a network in: losses need the digits."""
    half = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}
