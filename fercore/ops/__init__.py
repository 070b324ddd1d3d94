"""Hot maths as ops: batched kernel MMD and mutual prediction consistency, compiled where that is possible."""

from __future__ import annotations

from fercore.ops.checks import OpArgumentError
from fercore.ops.dispatch import ExtensionRequiredError, kernels
from fercore.ops.mmd import alignment_mmd, class_mmd, weighted_mmd
from fercore.ops.mpc import mpc_consistency
from fercore.ops.reference import Alignment

__all__ = [
    "Alignment",
    "ExtensionRequiredError",
    "OpArgumentError",
    "alignment_mmd",
    "class_mmd",
    "kernels",
    "mpc_consistency",
    "weighted_mmd",
]
