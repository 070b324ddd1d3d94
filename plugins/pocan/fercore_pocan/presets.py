"""What pocan wants in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DATA: Mapping[str, Any] = {"size": 48}
MODEL: Mapping[str, Any] = {
    "backbone_args": {"resnet18": {"channels": [24, 48, 96, 128], "zero_init_last": False}},
}
OPTIM: Mapping[str, Any] = {"lr": 3e-3}
SCRATCH: Mapping[str, Any] = {
    "proj_dim": 128,
    "proj_hidden": 256,
    "network": {"reduction": 8, "grid": 6},
    "aug": {"kind": "weak"},
    "stages": {"unit": "share", "pretrain": 1.0, "prototypes": 0.2, "adapt": 0.25},
    "lr": {"prototypes": 0.05, "adapt": 1e-3, "adapt_prototypes": 5e-3},
}
"""What a few hundred steps from random weights need in place of 300 epochs from VGGFace2: maps with places (aligned
faces), residual branches that act from the start, gentle views, larger rates. Chosen by the pretraining's own loss on
SynthFER's `studio`, the rates of adaptation with `posed`, a labelled source, in the target's place."""

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
    "small": {"data": DATA, "model": MODEL, "optim": OPTIM, "pocan": SCRATCH},
    "demo": {"data": DATA, "model": MODEL, "optim": OPTIM, "pocan": SCRATCH},
}

FROM_MODEL: Mapping[str, Any] = {
    "optim": {"lr": 3e-4},
    "pocan": {
        "projection": "none",
        "proto": {"bias": True},
        "network": {"reduction": None, "grid": 1},
        "stages": {"unit": "share", "pretrain": 0.0, "prototypes": 0.1, "adapt": 0.9},
        "lr": {"prototypes": 3e-4, "adapt": 3e-4, "adapt_prototypes": 3e-4},
    },
}
"""From a trained model: its head goes on as both sets of prototypes, on its own features scaled to length 1, and its
training was the pretraining. The rates are those of every method of these presets."""
