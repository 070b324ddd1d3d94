"""A small action-unit network: trained on SynthFER, kept as safetensors, used as a detector.

It looks at 48x48 grey faces, each brought to zero mean and unit variance, so that exposure and colour do not matter. It
learns the units that are drawn, so it is no measure of how well units are found in photographs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fercore.au.table import MOST, canonical_name
from fercore.errors import UserInputError
from fercore.files import no_file
from fercore.writing import write_tensors

KIND = "fercore action-unit network 1"
SIZE = 48
WIDTHS = (24, 48, 96, 128)
MOST_BLOCKS = 5
"""After as many halvings one pixel of 48 is left."""

MOST_CHANNELS = 1024


class AUNetwork(nn.Module):
    """Scores of action units.

    Args:
        au_names: units it tells, "AU01", ...
        widths: channels of its four blocks.
    """

    def __init__(self, au_names: Sequence[str], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.au_names, self.widths = tuple(au_names), tuple(widths)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *widths), widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.blocks = nn.Sequential(*layers)
        # The last 3x3 map is not pooled: where a unit acts says which one it is.
        self.head = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(widths[-1] * (SIZE // 2 ** len(widths)) ** 2, len(au_names))
        )

    def logits(self, images: Tensor) -> Tensor:
        """Map images float[B,3,H,W] in [0,1] to logits float[B,A]."""
        grey = images.float().mean(dim=1, keepdim=True)
        if grey.shape[-2:] != (SIZE, SIZE):
            grey = F.interpolate(grey, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)
        middle = grey.mean(dim=(2, 3), keepdim=True)
        # A floor for images of one value.
        spread = grey.std(dim=(2, 3), keepdim=True).clamp_min(1e-3)
        out: Tensor = self.head(self.blocks((grey - middle) / spread).flatten(1))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Map images float[B,3,H,W] in [0,1] to scores float[B,A] in [0,1]."""
        return self.logits(images).sigmoid()


def save_network(network: AUNetwork, path: Path, report: dict[str, Any]) -> None:
    """Write weights with what is needed to use them, and a report, as metadata.

    Raises:
        WriteError: if the file cannot be written.
    """
    metadata = {
        "kind": KIND,
        "au_names": ",".join(network.au_names),
        "widths": ",".join(map(str, network.widths)),
        "report": json.dumps(report),
    }
    write_tensors(path, network.state_dict(), metadata)


def load_network(path: Path) -> AUNetwork:
    """Read a network that `save_network` wrote, in evaluation mode.

    Raises:
        UserInputError: if the file is missing or holds something else.
    """
    where, fix = str(path), "make one with `fercore au train --out FILE.safetensors`"
    if not path.is_file():
        raise no_file(path, "action-unit network", fix=fix)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != KIND:
                raise UserInputError("the file holds no action-unit network", where=where, fix=fix)
            names = _unit_names(metadata["au_names"])
            # Limited before a network is built: the text in the file decides its size.
            widths = _widths(metadata["widths"])
            # On "meta" nothing is allocated: what the text claims is compared with the tensors before it costs memory.
            with torch.device("meta"):
                claimed = AUNetwork(names, widths).state_dict()
            if {name: list(tensor.shape) for name, tensor in claimed.items()} != {
                name: file.get_slice(name).get_shape() for name in file.keys()
            }:
                raise ValueError("its weights have other names or shapes than its metadata say")
            state = {name: file.get_tensor(name) for name in claimed}
        for name, tensor in state.items():
            # load_state_dict converts types without a word.
            if tensor.dtype != claimed[name].dtype or not bool(tensor.isfinite().all()):
                raise ValueError(f"{name} is no finite {claimed[name].dtype}")
        network = AUNetwork(names, widths)
        network.load_state_dict(state)
    except UserInputError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserInputError(f"cannot read the action-unit network: {reason}", where=where, fix=fix) from None
    return network.eval()


def _unit_names(text: str) -> list[str]:
    names = text.split(",")
    if not all(canonical_name(name) == name for name in names):
        raise ValueError("it names no units")
    if len(set(names)) < len(names) or len(names) > MOST:
        raise ValueError(f"it names a unit twice, or more than {MOST}")
    return names


def _widths(text: str) -> list[int]:
    widths = [int(width) for width in text.split(",")]
    if len(widths) > MOST_BLOCKS or not all(1 <= width <= MOST_CHANNELS for width in widths):
        raise ValueError(f"its widths are not 1 to {MOST_BLOCKS} numbers of 1 to {MOST_CHANNELS}")
    return widths
