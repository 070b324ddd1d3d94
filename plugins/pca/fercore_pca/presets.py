"""What the methods on CLIP want in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.config import merge

PAPER: Mapping[str, Any] = {
    "data": {"size": 224, "source_batch": 32, "target_batch": 32},
    "optim": {
        "name": "sgd",
        "lr": 3e-3,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "schedule": "cosine",
    },
}
PAPER_OWN: Mapping[str, Any] = {
    "clip": {"model": "ViT-B-16", "pretrained": "openai"},
    "epochs": 30,
    "warmup": {"epochs": 1, "lr": 1e-5},
}
SHORT: Mapping[str, Any] = {
    "data": {"size": 64, "source_batch": 32, "target_batch": 32},
    "optim": {"name": "sgd", "lr": 3e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "warmup_steps": 10},
    "train": {"steps": 200},
}
SHORT_OWN: Mapping[str, Any] = {"clip": {"model": "tiny"}, "aug": {"kind": "weak"}}


def presets_of(
    name: str, own: Mapping[str, Any] | None = None, short: Mapping[str, Any] | None = None
) -> dict[str, Mapping[str, Any]]:
    """Return the presets of a method under its name.

    Args:
        name: the plugin's. own: settings of the method in every preset. short: in those for small images.
    """
    quick = merge(merge(SHORT_OWN, own or {}), short or {})
    return {
        "paper": {**PAPER, name: merge(PAPER_OWN, own or {})},
        "small": {**SHORT, name: quick},
        "demo": {**SHORT, name: quick},
    }
