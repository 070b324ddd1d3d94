"""Datasets, labels, views and loaders.

Names are imported on first use, so that `import fercore.data` loads neither NumPy nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fercore.data.domains import DomainSet, open_domains
    from fercore.data.loader import StepLoader, eval_batches, side_table
    from fercore.data.preflight import Preflight, inspect
    from fercore.data.report import mismatch_lines
    from fercore.data.side import SideInfo, side_info
    from fercore.data.spec import DomainSpec, parse_spec
    from fercore.data.table import Table

_HOMES = {
    "DomainSet": "domains",
    "open_domains": "domains",
    "StepLoader": "loader",
    "eval_batches": "loader",
    "side_table": "loader",
    "Preflight": "preflight",
    "inspect": "preflight",
    "mismatch_lines": "report",
    "SideInfo": "side",
    "side_info": "side",
    "DomainSpec": "spec",
    "parse_spec": "spec",
    "Table": "table",
}

__all__ = [
    "DomainSet",
    "DomainSpec",
    "Preflight",
    "SideInfo",
    "StepLoader",
    "Table",
    "eval_batches",
    "inspect",
    "mismatch_lines",
    "open_domains",
    "parse_spec",
    "side_info",
    "side_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
