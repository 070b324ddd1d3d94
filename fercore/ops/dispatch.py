"""Chooses between the compiled kernels and the plain-torch reference."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from fercore.ops import reference


class ExtensionRequiredError(RuntimeError):
    """FERCORE_REQUIRE_EXT=1 is set and the compiled kernels cannot be used."""


def _refuse_fallback() -> None:
    if os.environ.get("FERCORE_REQUIRE_EXT") == "1":
        raise ExtensionRequiredError("FERCORE_REQUIRE_EXT=1, but the compiled kernels are not available")


def alignment(x: Tensor, y: Tensor, *rest: Any) -> reference.Alignment:
    """Sample- and class-level MMD; the arguments are those of `reference.alignment`."""
    _refuse_fallback()
    return reference.alignment(x, y, *rest)


def mpc(p: Tensor, q: Tensor, offdiag: bool) -> Tensor:
    """Mutual prediction consistency; the arguments are those of `reference.mpc`."""
    _refuse_fallback()
    return reference.mpc(p, q, offdiag)


def kernels() -> dict[str, str]:
    """Return which form each family of ops runs in here: "cpu", "cuda" or "reference"."""
    return {"mmd": "reference", "mpc": "reference"}
