"""Networks that are not timm's, by name in `model.backbone`; packages add to the table (`fercore.backbones`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fercore.models.weights import read_weights
from fercore.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """How a network is built, and its weights are read.

    Attributes:
        build: from `model.backbone_args` to a module f[B,3,H,W] -> f[B,D] with `pretrained_cfg`, a mapping that has at
            least "input_size" (3, H, W), "mean" and "std".
        read: from a file to the state of that module; None = a state dict.
    """

    build: Callable[[Mapping[str, Any]], nn.Module]
    read: Callable[[Path], dict[str, Tensor]] | None = None

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """Return the state in a file.

        Raises:
            UserInputError: if it cannot be read.
        """
        return read_weights(path) if self.read is None else self.read(path)


def _mini_xception(arguments: Mapping[str, Any]) -> nn.Module:
    from fercore.models.mini_xception import MiniXception

    return MiniXception(**arguments)


def _read_mini_xception(path: Path) -> dict[str, Tensor]:
    from fercore.models.mini_xception import read_state

    return read_state(path)


def _transformers(arguments: Mapping[str, Any]) -> nn.Module:
    from fercore.models.initial.transformers_model import build

    return build(arguments)


def _read_transformers(path: Path) -> dict[str, Tensor]:
    from fercore.models.initial.transformers_model import read_state

    return read_state(path)


def _onnx(arguments: Mapping[str, Any]) -> nn.Module:
    from fercore.models.initial.onnx_model import build

    return build(arguments)


def _read_onnx(path: Path) -> dict[str, Tensor]:
    from fercore.models.initial.onnx_model import read_state

    return read_state(path)


def _onnx_as_it_is(arguments: Mapping[str, Any]) -> nn.Module:
    from fercore.models.initial.frozen_graph import build
    from fercore.models.initial.onnx_model import IMAGENET

    return build(arguments, IMAGENET)


def _read_onnx_as_it_is(path: Path) -> dict[str, Tensor]:
    from fercore.models.initial.frozen_graph import read_state

    return read_state(path)


ARCHITECTURES: Registry[Architecture] = Registry(
    "fercore.backbones",
    {
        "mini_xception": Architecture(_mini_xception, _read_mini_xception),
        "transformers": Architecture(_transformers, _read_transformers),
        "onnx": Architecture(_onnx, _read_onnx),
        "onnx_as_it_is": Architecture(_onnx_as_it_is, _read_onnx_as_it_is),
    },
)
"""Name -> network."""
