"""What the methods of this package want in each preset, on top of the core's.

paper: SGD with Nesterov momentum 0.9 and weight decay 1e-3, lr (1 + 10 t)^-0.75, the backbone at a tenth of it, batches
of 64, as the released codes of SHOT, NRC and AaD have it; 15 passes over the target.
small, demo: the same optimiser, as a trained model is adapted and not trained anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fercore.plugin import merge

PUBLISHED: Mapping[str, Any] = {
    "data": {"target_batch": 64},
    "optim": {
        "name": "sgd",
        "lr": 0.01,
        "backbone_multiplier": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-3,
        "schedule": "inverse_decay",
        "gamma": 10.0,
        "power": 0.75,
        "warmup_steps": 0,
    },
    "train": {"joint_forward": False},
}


def presets(name: str, over: Mapping[str, Any] | None = None, *, epochs: int = 15) -> dict[str, Mapping[str, Any]]:
    """Return the presets of a method.

    Args:
        name: of the plugin. over: what it wants beside the published optimiser.
        epochs: passes over the target in preset paper; the others have `train.steps`.
    """
    base = merge(PUBLISHED, over or {})
    quick = merge(base, {"train": {"steps": 150}})
    return {"paper": merge(base, {name: {"epochs": epochs}}), "small": quick, "demo": quick}
