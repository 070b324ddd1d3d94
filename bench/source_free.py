"""Source-free adaptation on generated faces: a model trained on studio, posed and web, adapted without them.

    python bench/source_free.py train OUT               one source model a seed
    python bench/source_free.py adapt OUT [--part I/N]  every method on every target from each; goes on where it stopped
    python bench/source_free.py table OUT               bench/results/source_free.json, and a table

Nothing is chosen by labels of a target: settings are those of preset demo but for the length.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import fercore

SEEDS = (0, 1, 2)
TARGETS = {name: f"synthfer:{name}?n=640&seed=11" for name in ("wild", "dark", "nir", "thermal")}
METHODS = {
    "shot": ("shot", {}),
    "shot_im": ("shot", {"shot.pseudo": 0.0}),
    "shot_prior": ("shot", {"shot.prior": "estimated"}),
    "shot_pp": ("shot_pp", {}),
    "nrc": ("nrc", {}),
    "aad": ("aad", {}),
    "clup": ("clup", {}),
    "pseudo_label_free": ("pseudo_label_free", {}),
}
QUICK = {"train.threads": 1, "train.steps": 60, "data.target_batch": 48, "report.tensorboard": False}
RESULTS = Path(__file__).parent / "results" / "source_free.json"
SCORES = ("accuracy", "balanced_accuracy")


def train(out: Path) -> None:
    for seed in SEEDS:
        folder = out / f"source-s{seed}"
        if not (folder / "result.json").exists():
            settings = {
                "train.threads": 1,
                "train.steps": 1500,
                "report.tensorboard": False,
                "data.class_balanced": True,
            }
            fercore.train("source_only", seed=seed, set=settings, out=folder)


def adapt(out: Path, part: int, parts: int) -> None:
    cells = [(seed, target, method) for seed in SEEDS for target in TARGETS for method in METHODS]
    for number, (seed, target, method) in enumerate(cells):
        folder = out / f"{method}-{target}-s{seed}"
        if number % parts != part or (folder / "result.json").exists():
            continue
        plugin, own = METHODS[method]
        model = out / f"source-s{seed}"
        start = time.perf_counter()
        if folder.exists():
            run = fercore.train(resume=folder)
        else:
            run = fercore.train(plugin, init=model, target=TARGETS[target], seed=seed, set={**QUICK, **own}, out=folder)
        scores = {name: round(run.result.target.score(name), 4) for name in SCORES}
        print(json.dumps({"seed": seed, "target": target, "method": method, **scores,
                          "seconds": round(time.perf_counter() - start, 1)}), flush=True)  # fmt: skip


def table(out: Path) -> None:
    rows, cells = [], {}
    for target in TARGETS:
        for method in ("initial", *METHODS):
            scores = [found for seed in SEEDS if (found := _scores(out, method, target, seed))]
            if scores:
                cells[f"{target}/{method}"] = {
                    "seeds": len(scores),
                    **{name: round(statistics.mean(s[name] for s in scores), 4) for name in SCORES},
                    "std": round(statistics.stdev(s[SCORES[1]] for s in scores), 4) if len(scores) > 1 else None,
                }
    for method in ("initial", *METHODS):
        shown = [cells.get(f"{target}/{method}") for target in TARGETS]
        rows.append(
            [method, *(f"{100 * c['accuracy']:.1f} / {100 * c['balanced_accuracy']:.1f}" if c else "-" for c in shown)]
        )
    for row in [["accuracy / balanced", *TARGETS], *rows]:
        print(" | ".join(f"{cell:<20}" for cell in row))
    note = "means over seeds of source model and adaptation; accuracy and balanced accuracy of the target's test part"
    record = {"note": note, "seeds": SEEDS, "targets": TARGETS, "settings": QUICK, "cells": cells}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def _scores(out: Path, method: str, target: str, seed: int) -> dict[str, float] | None:
    if method == "initial":
        found = next((out / f"{name}-{target}-s{seed}" for name in METHODS
                      if (out / f"{name}-{target}-s{seed}" / "result.json").exists()), None)  # fmt: skip
        return None if found is None else json.loads((found / "result.json").read_text())["initial"]
    path = out / f"{method}-{target}-s{seed}" / "result.json"
    return json.loads(path.read_text())["target"] if path.exists() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "adapt", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="0/1")
    given = parser.parse_args()
    if given.what == "adapt":
        adapt(given.out, *map(int, given.part.split("/")))
    else:
        {"train": train, "table": table}[given.what](given.out)
