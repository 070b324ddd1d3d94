"""The model of a run: backbone, branches, heads, and the parts that plugins keep in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fercore.records.step import Encoded


class HeadOnBackbone(NamedTuple):
    """A layer that classifies by the backbone's own pooled features f[B,C], as the head of a trained model does.

    So it can go on with that head (`--init`).

    Attributes:
        layer: float[B,copies*C] -> float[B,K].
        copies: vectors side by side, such as of parts of an image; the answer is then the mean over them.
        unit_length: whether each row of features is scaled to length 1.
    """

    layer: nn.Linear
    copies: int = 1
    unit_length: bool = False


class Model(nn.Module):
    """A backbone with one or more branches, each with a classification head.

    Args:
        backbone: float[B,3,H,W] -> whatever the branches take (a feature map or a vector).
        branches: branch name -> module from the backbone's output to float[B,D].
        heads: branch name -> module float[B,D] -> float[B,K]; the same names as `branches`.
        mean, std: channel statistics that input images (scaled to [0,1]) are normalised with.
        on_backbone: branch name -> the layer of its head that takes the backbone's own features, where one does.

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
        on_backbone: Mapping[str, HeadOnBackbone] | None = None,
    ) -> None:
        super().__init__()
        if set(branches) != set(heads):
            raise ValueError(f"branches {sorted(branches)} and heads {sorted(heads)} must have the same names")
        self.backbone = backbone
        self.branches = nn.ModuleDict(dict(branches))
        self.heads = nn.ModuleDict(dict(heads))
        self.parts = nn.ModuleDict()
        self.mean, self.std = mean, std
        self.on_backbone = dict(on_backbone or {})

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


def heads_on_backbone(
    heads: Mapping[str, nn.Module], copies: Mapping[str, int] | None = None
) -> dict[str, HeadOnBackbone]:
    """Return the entries of `Model.on_backbone` for heads on the backbone's own features; those of a hidden layer none.

    Args:
        heads: by branch. copies: of the features side by side, where there are several; see `HeadOnBackbone`.
    """
    found = {}
    for name, head in heads.items():
        own = [module for module in head.modules() if any(True for _ in module.parameters(recurse=False))]
        if len(own) == 1 and isinstance(own[0], nn.Linear):
            found[name] = HeadOnBackbone(own[0], (copies or {}).get(name, 1))
    return found


def last_linear(head: nn.Module) -> nn.Linear | None:
    """Return the linear layer that a head is or ends in, if so."""
    last = head[-1] if isinstance(head, nn.Sequential) and len(head) else head
    return last if isinstance(last, nn.Linear) else None


def _widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 in place of the half precision that autocast runs a network in: losses need the digits."""
    half = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in half else tensor for name, tensor in tensors.items()}
