"""What la_cmfer wants in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "data": {"size": 224, "source_batch": 128, "target_batch": 128},
        "model": {"backbone": "resnet18", "weights": "timm"},
        "optim": {
            "name": "sgd",
            "lr": 0.01,
            "backbone_multiplier": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 1e-4,
            "schedule": "inverse_decay",
            "schedule_steps": 10000,
        },
        "train": {"steps": 20000},
    },
    "small": {
        "la_cmfer": {"network": {"widths": [128, 256], "depths": [1, 1], "local_width": 64, "local_depth": 1}},
    },
    "demo": {
        "la_cmfer": {"network": {"widths": [96, 128], "depths": [1, 1], "local_width": 32, "local_depth": 1}},
    },
}
"""The paper's batch of 128 source samples is the step's total; 128 from each source is source_batch = 128 N."""
