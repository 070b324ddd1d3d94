"""The Python interface: what `fercore.NAME` gives. Heavy modules are imported by the call that needs them.

The arguments of `train` and `compare` are those of `fercore run` and `fercore compare`, which call them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fercore.api.choosing import adapt, ask, plan, select, verdict
from fercore.api.models import evaluate, load, predict, report
from fercore.api.runs import Run, compare, describe, open_run, plugins, train
from fercore.errors import UserInputError
from fercore.experiments.comparison import Comparison
from fercore.records.result import Result

if TYPE_CHECKING:
    from fercore.adaptation.outcome import Adaptation
    from fercore.experiments.search import Search
    from fercore.experiments.study import Study
    from fercore.prediction.predictor import Predictions, Predictor

__all__ = [
    "Adaptation",
    "Comparison",
    "Predictions",
    "Predictor",
    "Result",
    "Run",
    "Search",
    "Study",
    "UserInputError",
    "adapt",
    "ask",
    "compare",
    "describe",
    "evaluate",
    "load",
    "open_run",
    "plan",
    "plugins",
    "predict",
    "report",
    "select",
    "train",
    "verdict",
]

LAZY = {
    "Adaptation": "fercore.adaptation.outcome",
    "Predictions": "fercore.prediction.predictor",
    "Predictor": "fercore.prediction.predictor",
    "Search": "fercore.experiments.search",
    "Study": "fercore.experiments.study",
}
"""Types whose modules need torch or much else -> where they stand."""


def __getattr__(name: str) -> Any:
    """Import the types of `LAZY` as they are asked for."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'fercore.api' has no attribute {name!r}")
