"""A pytest plugin (entry point `pytest11`): fixtures for tests of methods, which import what is heavy once used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fercore.api import Run
    from fercore.testing.tiny import TinyStep


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., Run]:
    """Train a plugin for six steps on generated faces: `tiny_run("my_method", {"train.steps": 3}) -> fercore.Run`."""
    from fercore.testing.tiny import tiny_run

    made = 0

    def train(plugin: str, settings: dict[str, Any] | None = None) -> Run:
        nonlocal made
        made += 1
        return tiny_run(plugin, tmp_path / f"tiny-{made}", settings)

    return train


@pytest.fixture
def tiny_batch() -> Callable[..., TinyStep]:
    """Encode the first batch of such a run: `tiny_batch("my_method")` has model, batch, encoded, pseudo and clock."""
    from fercore.testing.tiny import tiny_step

    return tiny_step


@pytest.fixture
def literal() -> Callable[..., None]:
    """Compare a tensor function with a slow one in NumPy, value and gradient: see `compare_with_literal`."""
    from fercore.testing.literal import compare_with_literal

    return compare_with_literal
