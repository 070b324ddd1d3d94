"""Tests for authors of plugins: the contract that every plugin keeps, and what tests of a method need.

    from fercore.testing import check_plugin

    def test_my_method_keeps_the_contract():
        check_plugin("my_method")

An installed fercore also gives pytest the fixtures `tiny_run`, `tiny_batch` and `literal` (`fercore.testing.fixtures`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fercore.testing.contract import RULES, Checked, ContractError, check_plugin
    from fercore.testing.literal import compare_with_literal
    from fercore.testing.tiny import TINY, Listener, TinyStep, tiny_context, tiny_run, tiny_step

_HOMES = {
    "RULES": "contract",
    "TINY": "tiny",
    "Checked": "contract",
    "ContractError": "contract",
    "Listener": "tiny",
    "TinyStep": "tiny",
    "check_plugin": "contract",
    "compare_with_literal": "literal",
    "tiny_context": "tiny",
    "tiny_run": "tiny",
    "tiny_step": "tiny",
}
__all__ = [
    "RULES",
    "TINY",
    "Checked",
    "ContractError",
    "Listener",
    "TinyStep",
    "check_plugin",
    "compare_with_literal",
    "tiny_context",
    "tiny_run",
    "tiny_step",
]


def __getattr__(name: str) -> Any:
    """Import what `__all__` names: pytest loads this package in every project, and most need nothing of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fercore.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fercore.testing.{_HOMES[name]}"), name)
