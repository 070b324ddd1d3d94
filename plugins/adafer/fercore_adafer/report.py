"""The report au.json: which share of each class shows each action unit, by domain (AdaFER, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fercore.plugin import CODES, FinishedRun


def report(run: FinishedRun) -> dict[str, Any]:
    """Return the shares of every source, and of the target by its labels."""
    own = [run.source.domain == number for number in range(len(run.specs))]
    parts = [(run.source.extras[CODES][rows], run.source.labels[rows]) for rows in own]
    parts.append((run.adaptation.extras[CODES], run.adaptation.labels))
    sides = ["source"] * len(run.specs) + ["target"]
    rows = [
        {"side": side, "name": name, "shares": unit_shares(codes, labels, run.classes)}
        for side, name, (codes, labels) in zip(sides, run.names, parts, strict=True)
    ]
    return {"units": list(run.units), "domains": rows, "uses_target_labels": True}


def unit_shares(codes: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, list[float] | None]:
    """Return class -> share of its samples that show each action unit; None without a sample.

    Args:
        codes: uint8[N,A]. labels: int64[N], -1 takes no part.
    """
    shares = {name: codes[labels == k] for k, name in enumerate(classes)}
    return {name: rows.mean(axis=0).tolist() if len(rows) else None for name, rows in shares.items()}
