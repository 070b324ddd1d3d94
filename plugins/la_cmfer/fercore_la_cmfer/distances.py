"""The report distances.json: how far classes are apart inside a domain (Table 4), and domains from each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fercore.ops import weighted_mmd
from fercore.plugin import FinishedRun


def report(run: FinishedRun) -> dict[str, Any]:
    """Return the distances of classes in the sources and in the target's test part, and each source's MMD to it."""
    sources, target = run.outputs("source"), run.outputs("test")
    sides = (("sources", sources), ("target", target))
    classes = {
        side: {name: feature_distances(f, outputs.labels) for name, f in outputs.features.items()}
        for side, outputs in sides
    }
    domains = domain_distances(sources.features, target.features, run.source.domain, run.specs)
    return {**classes, "mmd_to_target": domains}


def feature_distances(features: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Return intra-L2, intra-var, inter-L2 and their ratio r of L2-normalised features (LA-CMFER, Table 4).

    Args:
        features: float[N,D]. labels: int64[N]; -1 takes no part.

    Returns:
        intra_l2: mean distance to the own class centre; intra_var: mean variance per dimension inside classes;
        inter_l2: mean distance between class centres; r = inter_l2 / intra_l2. inter_l2 and r are None
        where there are fewer than two classes, all four where there are no labels.
    """
    unit = _unit(features)
    groups = [unit[labels == k] for k in np.unique(labels[labels >= 0])]
    if not groups:
        return dict.fromkeys(("intra_l2", "intra_var", "inter_l2", "r"))
    centres = np.array([group.mean(axis=0) for group in groups])
    intra = float(np.mean([np.linalg.norm(g - c, axis=1).mean() for g, c in zip(groups, centres, strict=True)]))
    pairs = [(i, j) for i in range(len(centres)) for j in range(i)]
    inter = float(np.mean([np.linalg.norm(centres[i] - centres[j]) for i, j in pairs])) if pairs else None
    ratio = None if inter is None else inter / max(intra, 1e-12)
    variance = float(np.mean([group.var(axis=0).mean() for group in groups]))
    return {"intra_l2": intra, "intra_var": variance, "inter_l2": inter, "r": ratio}


def domain_distances(
    sources: Mapping[str, np.ndarray], target: Mapping[str, np.ndarray], domain: np.ndarray, names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Return each source's kernel MMD to the target, whole sets of L2-normalised features at once.

    The root of the squared MMD of `fercore.ops.weighted_mmd` under uniform weights, its mixture's middle bandwidth the
    mean squared distance of the two sets together; streamed, so that memory grows with the samples alone.

    Args:
        sources: branch -> float[N,D]. target: branch -> float[M,D]. domain: int64[N], the source of each row.
        names: of the sources.

    Returns:
        Source name -> branch -> distance; a source without samples is left out.
    """
    by_source: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        rows = domain == number
        if rows.any() and all(len(features) for features in target.values()):
            by_source[name] = {branch: _mmd(sources[branch][rows], target[branch]) for branch in sources}
    return by_source


def _mmd(source: np.ndarray, target: np.ndarray) -> float:
    x, y = (torch.from_numpy(_unit(features)) for features in (source, target))
    value = weighted_mmd(x, y, *(torch.full((len(rows),), 1.0 / len(rows), dtype=rows.dtype) for rows in (x, y)))
    # The squared MMD of nearly equal sets may round below 0.
    return float(value.clamp_min(0).sqrt())


def _unit(features: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    unit: np.ndarray = features / lengths
    return unit
