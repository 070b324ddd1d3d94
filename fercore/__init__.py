"""fercore: adapt facial-expression classifiers across domains with pluggable methods.

What `__all__` names is the stable Python interface; it is imported as it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fercore.api import (
        Adaptation,
        Comparison,
        Predictions,
        Predictor,
        Result,
        Run,
        Search,
        Study,
        UserInputError,
        adapt,
        ask,
        compare,
        describe,
        evaluate,
        load,
        open_run,
        plan,
        plugins,
        predict,
        report,
        select,
        train,
        verdict,
    )

__version__ = "0.1.0"
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


def __getattr__(name: str) -> Any:
    """Import what `__all__` names."""
    if name not in __all__:
        raise AttributeError(f"module 'fercore' has no attribute {name!r}")
    from fercore import api

    return getattr(api, name)


def __dir__() -> list[str]:
    """Return what the interface holds."""
    return [*__all__, "__version__"]
