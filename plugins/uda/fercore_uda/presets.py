"""What the methods of this package want in each preset, on top of the core's.

paper: the setting of the public library that most of them were compared in (thuml/Transfer-Learning-Library,
examples/domain_adaptation/image_classification): SGD 0.01 with Nesterov momentum 0.9, backbone at a tenth of it,
lr (1 + 0.001 i)^-0.75, weight decay 1e-3, 32 + 32 images a step, 20 epochs of 1000 steps, ResNet-50.
small, demo: the network of `source_only`, without a bottleneck, so that rows of a comparison differ in method alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.plugin import merge

PAPER: Mapping[str, Any] = {
    "data": {"source_batch": 32, "target_batch": 32},
    "model": {"backbone": "resnet50"},
    "optim": {"lr": 0.01, "backbone_multiplier": 0.1, "gamma": 20.0, "weight_decay": 1e-3},
    "train": {"steps": 20000, "steps_per_epoch": 1000},
}


def presets(name: str, *, paper: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
    """Return the presets of a method.

    Args:
        name: of the plugin, whose bottleneck small and demo leave out.
        paper: what it wants in preset paper besides.
    """
    quick = {name: {"bottleneck": 0}}
    return {"paper": merge(PAPER, paper or {}), "small": quick, "demo": quick}
