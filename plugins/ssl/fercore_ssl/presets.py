"""What the methods of this package want in each preset, on top of the core's.

paper: the setting of the comparison in LEAF's released code (ResNet-18 at 224 pixels, Adam 5e-4, 16 labelled and 16
unlabelled images a step, 20 epochs of 1600 steps), with the average of the weights that FixMatch and Ada-CM report.
small, demo: the average spans the share of their 250 to 300 steps that 0.999 spans of 32000, three in a hundred; a
longer one would still hold the first weights at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.plugin import merge

COMMON: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "data": {"size": 224, "augment": "crop", "source_batch": 16, "target_batch": 16},
        "optim": {"name": "adam", "lr": 5e-4, "schedule": "constant", "weight_decay": 0.0},
        "train": {"steps": 32000, "steps_per_epoch": 1600, "ema": 0.999},
        "report": {"primary_metric": "balanced_accuracy"},
    },
    "small": {
        "data": {"augment": "crop", "source_batch": 32, "target_batch": 64},
        "train": {"ema": 0.9},
        "report": {"primary_metric": "balanced_accuracy"},
    },
    "demo": {
        "data": {"augment": "crop", "source_batch": 32, "target_batch": 64},
        "train": {"ema": 0.9},
        "report": {"primary_metric": "balanced_accuracy"},
    },
}


def presets(name: str = "", **layers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the common presets with layers of a method on top.

    Args:
        name: of the method, for its settings in `quick`.
        layers: "paper", "small" or "demo" -> layer of run settings; "quick" -> the method's own settings in both small
            and demo, for runs of hundreds of steps.
    """
    quick = layers.pop("quick", None)
    result = {preset: merge(layer, layers.get(preset, {})) for preset, layer in COMMON.items()}
    if quick is not None:
        for preset in ("small", "demo"):
            result[preset] = merge(result[preset], {name: quick})
    return result
