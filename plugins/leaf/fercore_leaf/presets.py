"""What leaf and leaf_eaf want in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "data": {"size": 224, "augment": "crop", "source_batch": 64, "target_batch": 64},
        "model": {"backbone": "resnet18", "weights": "timm"},
        "optim": {"name": "adam", "lr": 5e-4, "weight_decay": 0.0, "schedule": "constant"},
        "report": {"lead": "balanced_accuracy"},
        "leaf": {"epochs": 20},
    },
    "small": {
        "report": {"lead": "balanced_accuracy"},
        "leaf": {"n_experts": 4, "partition_from": "weak"},
    },
    "demo": {
        "data": {"sources": ["synthfer:wild?n=1600&seed=3&labels=70"]},
        "report": {"lead": "balanced_accuracy"},
        "leaf": {"n_experts": 4, "partition_from": "weak"},
    },
}
"""paper: section 5.2; the paper names no schedule, and starts from MS-Celeb-1M weights: give them as model.weights.

small and demo: candidates come from the weak view. Trained from scratch, the strong view's predictions are the poorer
ones, and the paper's order would hold the better view to them.
"""

ADDON_PRESETS: Mapping[str, Mapping[str, Any]] = {
    preset: {"leaf_eaf": {"n_experts": 4, "partition_from": "weak"}} for preset in ("small", "demo")
}
