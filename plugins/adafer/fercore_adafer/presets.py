"""What adafer wants in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "data": {"size": 224, "source_batch": 192, "target_batch": 192, "small_domains": "repeat"},
        "model": {"backbone": "resnet18", "weights": "timm"},
        "optim": {"name": "adam", "lr": 1e-3, "weight_decay": 0.0, "schedule": "constant"},
        "adafer": {"epochs": 40, "lr_decay": 0.9},
    },
    "small": {"data": {"small_domains": "repeat"}},
    "demo": {"data": {"au": "synthfer", "small_domains": "repeat"}},
}
"""paper: 128 triplets a step are 384 images; half of the triplets have a source anchor, so 192 stand on either side.

The paper's ResNet-18 starts from MS-Celeb-1M; those weights are the user's to give as model.weights=FILE, and
ImageNet's stand in. A target smaller than its batch (JAFFE) gives its triplets again. demo: generated faces carry
action units of their own.
"""
