"""What a finished run says of itself: result.json and the optional report files."""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fercore import ops
from fercore.data import side_table
from fercore.engine.evaluate import feature_distances, score
from fercore.engine.files import write_json
from fercore.engine.record import RunFolder, versions
from fercore.engine.setup import Workshop
from fercore.types import Clock

if TYPE_CHECKING:
    from fercore.engine.run import Trainer

SCHEMA = 1


def evaluate_target(shop: Workshop, clock: Clock) -> dict[str, Any]:
    """Score the target's test part; the only use of its labels."""
    predictions = shop.evaluator.predict(shop.model, shop.domains.test, clock)
    return score(predictions, shop.domains.classes)


def build(shop: Workshop, scores: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Return the contents of result.json; schema in docs/architecture.md."""
    config, domains = shop.config, shop.domains
    target = {"spec": config.data.target, **scores, "n_adaptation": len(domains.adaptation)}
    sources = zip(config.data.sources, domains.sources, strict=True)
    return {
        "schema": SCHEMA,
        "plugins": list(shop.plugins.names),
        "seed": config.seed,
        "device": str(shop.fabric.device.type),
        "kernels": ops.kernels(),
        "target": {**target, "transductive": domains.transductive},
        "sources": [{"spec": spec, "n": len(table)} for spec, table in sources],
        "selection": {"rule": config.select.rule, "oracle_best": trainer.oracle},
        "steps": trainer.total,
        "train_seconds": round(trainer.seconds, 3),
        "train_images_per_second": round(trainer.images / max(trainer.seconds, 1e-9), 1),
        "peak_memory_mb": peak_memory_mb(shop.fabric.device),
        "threads": torch.get_num_threads(),
        "preset": config.preset,
        "versions": {**versions(), **shop.company.versions},
    }


def peak_memory_mb(device: torch.device) -> float:
    """Return the largest memory in use so far, in MiB: the device's on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def write_reports(shop: Workshop, folder: RunFolder, clock: Clock) -> None:
    """Write the optional files: features.npz of the target's test part, distances.json of both sides."""
    report = shop.config.report
    if report.features:
        found = shop.evaluator.predict(shop.model, shop.domains.test, clock)
        branches = {f"features/{name}": array for name, array in found.features.items()}
        logits = {f"logits/{name}": array for name, array in found.logits.items()}
        arrays: dict[str, Any] = {"labels": found.labels, "probs": found.probs, **branches, **logits}
        np.savez_compressed(folder.path / "features.npz", **arrays)
    if report.distances:
        tables = {"sources": side_table(shop.domains, "source"), "target": shop.domains.test}
        distances: dict[str, dict[str, dict[str, float]]] = {}
        for side, table in tables.items():
            found = shop.evaluator.predict(shop.model, table, clock)
            distances[side] = {name: feature_distances(f, found.labels) for name, f in found.features.items()}
        write_json(folder.path / "distances.json", distances)
