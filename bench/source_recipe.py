"""Recipes of a source model, told apart by source images that were held out alone.

    python -m bench.source_recipe OUT --source SPEC --target SPEC [--seeds 0] [--steps 1500] [--rows NAME ...]
    python -m bench.source_recipe OUT --table FILE.json

A tenth of the source is held out (`data.source_validation`); a recipe is read off its accuracy and balanced accuracy
there. The target's labels are scored in the same runs, and shown in a column of their own: nothing is chosen by them.
OUT has a run folder a recipe and seed; one that is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import fercore
from fercore.config import merge
from fercore.writing import write_json

BASE: dict[str, Any] = {
    "train": {"threads": 1, "checkpoint_every": 10**6},
    "data": {"source_validation": 0.1},
    "report": {"tensorboard": False},
}
RECIPES: dict[str, dict[str, Any]] = {
    "small": {},
    "standard views": {"data": {"augment": "standard"}},
    "rate x 2": {"optim": {"lr": 2e-3}},
    "rate / 2": {"optim": {"lr": 5e-4}},
    "average 0.99": {"train": {"ema": 0.99}},
    "smoothing 0.1": {"source_only": {"label_smoothing": 0.1}},
    "classes as they are": {"data": {"class_balanced": False}},
    "dropout 0.3": {"model": {"dropout": 0.3}},
    "half the length": {"train": {"steps": 0.5}},
    "twice the length": {"train": {"steps": 2}},
    "96 px, half the length": {"data": {"size": 96}, "train": {"steps": 0.5}},
    "128 px, a quarter of it": {"data": {"size": 128}, "train": {"steps": 0.25}},
    "a quarter of the length": {"train": {"steps": 0.25}},
}
"""Name -> what it changes in preset small; steps are factors of --steps."""
SCORE = "source_balanced_accuracy"


def train(out: Path, source: str, target: str, seeds: list[int], steps: int, rows: list[str]) -> None:
    """Train what is missing of the recipes."""
    for seed in seeds:
        for name in rows:
            folder = out / f"{name.replace(' ', '_').replace('/', 'over')}-s{seed}"
            if (folder / "result.json").exists():
                continue
            length = round(RECIPES[name].get("train", {}).get("steps", 1) * steps)
            own = merge(RECIPES[name], {"train": {"steps": length, "eval_every": length}})
            settings = merge(BASE, own)
            run = fercore.train(
                "source_only", source=[source], target=target, preset="small", seed=seed, set=settings, out=folder
            )
            seconds = run.result.seconds_per_step or 0.0
            print(name, seed, held_out(folder), f"{seconds:.3f} s a step", flush=True)


def held_out(folder: Path) -> float:
    """Return the balanced accuracy on held-out source samples at a run's end."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float([line for line in lines if line["kind"] == "selection"][-1][SCORE])


def table(out: Path, path: Path) -> None:
    """Write the figures of what is there, and print them."""
    cells: dict[str, Any] = {}
    for name in RECIPES:
        folders = sorted(out.glob(f"{name.replace(' ', '_').replace('/', 'over')}-s*/result.json"))
        if not folders:
            continue
        results = [json.loads(each.read_text(encoding="utf-8")) for each in folders]
        cells[name] = {
            "seeds": len(folders),
            "held_out_source_balanced": [round(held_out(each.parent), 4) for each in folders],
            "target_accuracy": [result["target"]["accuracy"] for result in results],
            "target_balanced": [result["target"]["balanced_accuracy"] for result in results],
        }
        means = [100 * statistics.mean(values) for values in list(cells[name].values())[1:]]
        print(f"{name:24}" + " ".join(f"{value:6.1f}" for value in means), len(folders))
    write_json(path, {"note": "chosen by held_out_source_balanced alone", "recipes": cells})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", metavar="SPEC")
    parser.add_argument("--target", metavar="SPEC")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="train nothing; write the figures there")
    given = parser.parse_args()
    if given.table is not None:
        table(given.out, given.table)
    elif given.source is None or given.target is None:
        parser.error("--source and --target are missing")
    else:
        train(given.out, given.source, given.target, given.seeds, given.steps, given.rows)


if __name__ == "__main__":
    main()
