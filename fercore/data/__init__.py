"""Datasets, labels, views and loaders.

Names are imported on first use, so that `import fercore.data` loads neither NumPy nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fercore.data.batches.loader import StepLoader, eval_batches, side_table
    from fercore.data.domains.dataset_info import SideInfo, side_info
    from fercore.data.domains.domain_set import DomainSet, load_domains
    from fercore.data.domains.report import mismatch_lines
    from fercore.data.images.preflight import Preflight, inspect
    from fercore.data.spec import DomainSpec, parse_spec
    from fercore.data.table import Table

_HOMES = {
    "DomainSet": "domains.domain_set",
    "load_domains": "domains.domain_set",
    "StepLoader": "batches.loader",
    "eval_batches": "batches.loader",
    "side_table": "batches.loader",
    "Preflight": "images.preflight",
    "inspect": "images.preflight",
    "mismatch_lines": "domains.report",
    "SideInfo": "domains.dataset_info",
    "side_info": "domains.dataset_info",
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
    "load_domains",
    "mismatch_lines",
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
