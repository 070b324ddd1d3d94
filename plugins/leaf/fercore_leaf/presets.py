"""What leaf and leaf_eaf want in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.plugin import merge

QUICK: Mapping[str, Any] = {
    "data": {"augment": "crop", "source_batch": 32, "target_batch": 64},
    "train": {"ema": 0.9},
    "report": {"primary_metric": "balanced_accuracy"},
}
SHORT: Mapping[str, Any] = {"n_experts": 4, "partition_from": "weak"}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "data": {"size": 224, "augment": "crop", "source_batch": 64, "target_batch": 64},
        "model": {"backbone": "resnet18", "weights": "timm"},
        "optim": {"name": "adam", "lr": 5e-4, "weight_decay": 0.0, "schedule": "constant"},
        "report": {"primary_metric": "balanced_accuracy"},
        "leaf": {"epochs": 20},
    },
    "small": merge(QUICK, {"leaf": SHORT}),
    "demo": merge(QUICK, {"leaf": SHORT}),
}
"""paper: section 5.2; the paper names no schedule, and starts from MS-Celeb-1M weights: give them as model.weights.

small and demo: candidates come from the weak view. Trained from scratch, the strong view's predictions are the poorer
ones, and the paper's order would hold the better view to them. Their batches and their average of the weights (the
released code's 0.999 belongs to tens of thousands of steps) are those of this project's other semi-supervised methods.
"""

ADDON_PRESETS: Mapping[str, Mapping[str, Any]] = {preset: {"leaf_eaf": SHORT} for preset in ("small", "demo")}

FROM_MODEL: Mapping[str, Any] = {"leaf": {"expert": {"start": "identity"}}}
ADDON_FROM_MODEL: Mapping[str, Any] = {"leaf_eaf": {"expert": {"start": "identity"}}}
"""From a trained model: experts with random weights, before and behind its head, would make its answers random."""
