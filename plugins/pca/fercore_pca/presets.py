"""What the methods on CLIP want in each preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.plugin import merge

PAPER: Mapping[str, Any] = {
    "model": {"weights": "none"},  # there is no other network than CLIP
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
    "optim": {"name": "adamw", "lr": 0.01, "weight_decay": 0.01, "schedule": "cosine", "warmup_steps": 10},
    "train": {"steps": 200},
}
"""A few hundred steps on a small CLIP need another optimiser than thirty epochs on a large one; chosen on dim, grey
`studio` faces, a labelled domain, in the target's place."""

SHORT_OWN: Mapping[str, Any] = {"clip": {"model": "tiny"}, "aug": {"kind": "weak"}}


def presets_of(
    name: str, *, paper: Mapping[str, Any] | None = None, short: Mapping[str, Any] | None = None
) -> dict[str, Mapping[str, Any]]:
    """Return the presets of a method under its name.

    Args:
        name: the plugin's.
        paper: the method's own settings where they differ from PCA's in preset "paper".
        short: the run's settings where they differ in the presets for small images.
    """
    quick = {**merge(SHORT, short or {}), name: SHORT_OWN}
    return {"paper": {**PAPER, name: merge(PAPER_OWN, paper or {})}, "small": quick, "demo": quick}
