"""The core's presets: settings every method of a run shares; a plugin's own preset is laid on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.errors import UserInputError, did_you_mean

PRESETS: dict[str, Mapping[str, Any]] = {
    "demo": {
        "data": {"size": 64, "augment": "light", "source_batch": 48, "target_batch": 48},
        "model": {"backbone": "resnet18", "backbone_args": {"resnet18": {"channels": [24, 48, 96, 128]}}},
        "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "schedule": "cosine", "warmup_steps": 20},
        "train": {"steps": 250, "memory_format": "contiguous", "joint_forward": False, "fused_optimiser": False},
    },
    "small": {
        "data": {
            "size": 64,
            "augment": "light",
            "source_batch": 48,
            "target_batch": 48,
            "class_balanced": True,
        },
        "model": {"backbone": "resnet18", "backbone_args": {"resnet18": {"channels": [32, 64, 128, 256]}}},
        "optim": {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-2, "schedule": "cosine", "warmup_steps": 20},
        "train": {"steps": 300},
    },
    "paper": {
        "data": {"size": 224, "augment": "standard", "source_batch": 128, "target_batch": 128, "workers": 4},
        "model": {"backbone": "resnet18", "weights": "timm"},
        "optim": {"name": "sgd", "lr": 0.01, "schedule": "inverse_decay", "weight_decay": 1e-4},
        "train": {"steps": 20000, "checkpoint_every": 1000},
    },
}
"""demo: synthetic faces, minutes on two cores; its arithmetic is fixed, so that every machine gives the figures of the
READMEs. Its classes are even: to draw them evenly would change their order alone. small: real images of 48-64 px on a
laptop, from a pretrained backbone where a package of weights is installed (`fercore.hooks.assemble.core_preset`);
classes are drawn evenly, because real sources have them in shares that no target need have. paper: as published."""


FROM_MODEL: dict[str, Mapping[str, Any]] = {"small": {"optim": {"lr": 3e-4}}}
"""On top where a run starts from a trained model (`--init`, `--pretrain-source`). small: 100 more steps at the rate
that trains a network from ImageNet cost a source model 4.2 points of held-out source accuracy (67.3 to 63.1,
balanced), at 3e-4 0.5 and at 1e-4 0.2; chosen by that alone."""


def preset_settings(name: str, *, where: str = "--preset") -> Mapping[str, Any]:
    """Return the core's settings of a preset.

    Raises:
        UserInputError: for an unknown one; `where` says who named it.
    """
    if name not in PRESETS:
        raise UserInputError(f"unknown preset {name!r}", where=where, fix=did_you_mean(name, PRESETS))
    return PRESETS[name]
