"""Which pretrained backbone of images of 48 to 64 px this machine has, for presets that start from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fercore.models.packaged import PREFIX, WEIGHTS

SMALL: Final = ("efficientnet_lite0", "mobilenet_v2")
"""Packages of weights whose networks a laptop trains at 64 px, the preferred one first."""
CHOSEN: Final = frozenset({"backbone", "backbone_args", "weights", "init"})
"""Settings of `model` by which somebody has chosen a network already."""


def network_at_hand(layers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return `model.backbone` and `model.weights` of the first package of `SMALL` that is installed.

    Args:
        layers: settings over the preset's.

    Returns:
        {} where a layer has chosen a network, or no package is installed.
    """
    tables = [layer.get("model") for layer in layers]
    if any(isinstance(table, Mapping) and not CHOSEN.isdisjoint(table) for table in tables):
        return {}
    name = next((name for name in SMALL if WEIGHTS[name].path() is not None), None)
    return {} if name is None else {"backbone": WEIGHTS[name].backbone, "weights": f"{PREFIX}{name}"}


def backbone_line(backbone: str, weights: str) -> str:
    """Say in a line what a network starts from, and how to have it start from more."""
    if weights == "none":
        first = WEIGHTS[SMALL[0]]
        more = f"{first.pip_line} lets preset small start from {first.trained_on}'s"
        return f"backbone {backbone} from random weights; {more}"
    if not weights.startswith(PREFIX):
        return f"backbone {backbone}, weights {weights}"
    entry = WEIGHTS[weights.removeprefix(PREFIX)]
    return f"backbone {backbone}, {entry.trained_on} weights of package {entry.distribution} {entry.version}"
