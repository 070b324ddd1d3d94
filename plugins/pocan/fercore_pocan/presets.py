"""What pocan wants in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "data": {
            "size": 112,
            "source_batch": 64,
            "target_batch": 64,
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
        },
        "model": {"backbone": "resnet50"},
        "optim": {
            "name": "sgd",
            "lr": 1e-3,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 1e-5,
            "schedule": "cosine",
        },
        "pocan": {"stages": {"pretrain_batch": 128}},
    },
    "small": {
        "pocan": {
            "proj_dim": 128,
            "aug": {"pretrain_area": [0.5, 1.0]},
            "stages": {"unit": "share", "pretrain": 0.7, "prototypes": 0.2, "adapt": 0.3},
            "lr": {"adapt": 2e-4, "adapt_prototypes": 1e-3},
        },
    },
    "demo": {
        "pocan": {
            "proj_dim": 128,
            "aug": {"pretrain_area": [0.5, 1.0]},
            "stages": {"unit": "share", "pretrain": 0.7, "prototypes": 0.2, "adapt": 0.3},
            "lr": {"adapt": 2e-4, "adapt_prototypes": 1e-3},
        },
    },
}
