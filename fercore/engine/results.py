"""What a finished run says of itself: result.json and the optional report files."""

from __future__ import annotations

import contextlib
import csv
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fercore import ops
from fercore.data import side_table
from fercore.engine.evaluate import Predictions, feature_distances, score
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
    filtered = domains.report["target"]["adaptation_filtered_by_label"]
    target = {
        "spec": config.data.target,
        **scores,
        "n_adaptation": len(domains.adaptation),
        "transductive": domains.transductive,
        "adaptation_filtered_by_label": filtered,
        "test_images_in_sources": domains.report["test_images_in_sources"],
    }
    sources = zip(config.data.sources, domains.sources, strict=True)
    return {
        "schema": SCHEMA,
        "plugins": list(shop.plugins.names),
        "seed": config.seed,
        "device": str(shop.fabric.device.type),
        "kernels": ops.kernels(shop.fabric.device),
        "target": target,
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


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure the largest memory anew, so that an earlier run in this process does not count."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb(device: torch.device) -> float:
    """Return the largest memory in use so far, in MiB: the device's on CUDA, else the process's resident set."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    with contextlib.suppress(OSError):  # Linux: the mark that can be reset
        status = Path("/proc/self/status").read_text(encoding="ascii")
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 2**10
    return round(peak, 1)


def write_predictions(shop: Workshop, folder: RunFolder, found: Predictions) -> None:
    """Write predictions.csv: one line for each image of the target's test part, with its class probabilities."""
    classes = shop.domains.classes
    with (folder.path / "predictions.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "prediction", *classes])
        for key, probs in zip(shop.domains.test.keys, found.probs, strict=True):
            writer.writerow([key, classes[int(probs.argmax())], *(f"{p:.6f}" for p in probs)])


def write_reports(shop: Workshop, folder: RunFolder, clock: Clock) -> None:
    """Write predictions.csv, and if asked features.npz of the target's test part and distances.json of both sides."""
    report = shop.config.report
    found = shop.evaluator.predict(shop.model, shop.domains.test, clock)
    write_predictions(shop, folder, found)
    if report.features:
        branches = {f"features/{name}": array for name, array in found.features.items()}
        logits = {f"logits/{name}": array for name, array in found.logits.items()}
        arrays: dict[str, Any] = {"labels": found.labels, "probs": found.probs, **branches, **logits}
        np.savez_compressed(folder.path / "features.npz", **arrays)
    if report.distances:
        tables = {"sources": side_table(shop.domains, "source"), "target": shop.domains.test}
        distances: dict[str, dict[str, dict[str, float | None]]] = {}
        for side, table in tables.items():
            found = shop.evaluator.predict(shop.model, table, clock)
            distances[side] = {name: feature_distances(f, found.labels) for name, f in found.features.items()}
        write_json(folder.path / "distances.json", distances)
