"""Acceptance pairs of `fercore adapt`: what it ships, against the source model and all that it tried.

    python -m bench.adapt OUT --pair NAME --source SPEC --target SPEC --test SPEC --budget 30m [--set KEY=VALUE...]
    python -m bench.adapt OUT --hurt shift|no_faces --budget 10m
    python -m bench.adapt OUT --table FILE.json

A pair is adapted in OUT/NAME and goes on there after any stop; then its models predict the images of --test, and their
labels are read, for the first time. Without --test that is the test part of the target, as the runs scored it.
`--hurt` makes a pair on which adapting must not be believed: `shift`, class shares of 10 to 1 in the target and a
method that takes them for even ones as the only one, though the portfolio would leave it out; `no_faces`, images of
bars and spots, whose classes mean nothing to the source. OUT/NAME.json has figures alone, FILE.json those of all pairs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

import fercore
from fercore.adaptation import probe
from fercore.adaptation.budget import seconds_of
from fercore.adaptation.outcome import Adaptation
from fercore.adaptation.portfolio import Row, portfolio, read_rows
from fercore.adaptation.race import AS_IT_IS, REFERENCE
from fercore.adaptation.state import Tried
from fercore.console import print_lines
from fercore.data.domains.load import read_chosen
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec, folder_or_spec
from fercore.errors import UserInputError
from fercore.experiments.cells import slug
from fercore.prediction.predictor import load_predictor
from fercore.runs.folder import MODEL, RunFolder
from fercore.synthfer import SynthFER
from fercore.writing import write_json

HURT = ("shift", "no_faces")
SIDE, PATTERNS = 48, ("anger", "happiness", "sadness", "surprise")
BLIND_LABEL = "shot, even shares"
BLIND = f"""
[[row]]
label = "{BLIND_LABEL}"
method = "shot shot.prior=uniform"
"""
Scored = dict[str, dict[str, float]]
"""Row -> accuracy and balanced accuracy."""


def scores_of(answers: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Return accuracy, and its mean over the classes that there are."""
    right = np.array(answers) == np.array(truth)
    each = [right[np.array(truth) == name].mean() for name in sorted(set(truth))]
    return {"accuracy": round(float(right.mean()), 4), "balanced_accuracy": round(float(np.mean(each)), 4)}


def folder_of(out: Path, row: Tried) -> Path | None:
    """Return the run of a row of the last round; None if it has none that ended."""
    name = AS_IT_IS if row.label == AS_IT_IS else f"last/{slug(row.label)}"
    folder = out / "runs" / name
    return folder if RunFolder(folder).finished else None


def score(done: Adaptation, test: DomainSpec | None) -> Scored:
    """Score the last round by labels of the target; nothing is chosen after it."""
    runs = {row.label: folder for row in done.record.tried if (folder := folder_of(done.path, row)) is not None}
    if test is None:
        targets = {label: RunFolder(folder).result().target for label, folder in runs.items()}
        return {
            label: {"accuracy": target.accuracy, "balanced_accuracy": target.balanced_accuracy}
            for label, target in targets.items()
            if target.accuracy is not None and target.balanced_accuracy is not None
        }
    table, _ = read_chosen(test)
    labelled = np.flatnonzero(table.labels >= 0).tolist()
    pixels, truth = list(table.read_many(labelled)), [CANONICAL[table.labels[i]] for i in labelled]
    return {
        label: scores_of(load_predictor(folder / MODEL).predict(pixels).labels, truth) for label, folder in runs.items()
    }


def figures(done: Adaptation, scored: Scored, seconds: float, budget: float) -> dict[str, Any]:
    """Return what is reported of a pair.

    Args:
        scored: by labels. seconds: of wall time. budget: seconds that were given.
    """
    record, candidates = done.record, [name for name in scored if name not in (AS_IT_IS, REFERENCE)]
    runs = [RunFolder(path.parent).result() for path in sorted(done.path.glob("runs/**/result.json"))]
    shown: dict[str, Any] = {
        "pick": record.shipped,
        "adapted": record.adapted,
        "verdict": None if record.verdict is None else record.verdict["verdict"],
        "why": record.why,
        "seconds": round(seconds, 1),
        "budget": budget,
        "over_budget": round(seconds / budget - 1, 4),
        "memory_mb": round(max(run.peak_memory_mb for run in runs)),
        "ended_early": {row.label: f"{row.steps} of {row.planned}" for row in record.tried if row.planned is not None},
        "dropped": {row.label: row.why for row in record.tried if row.fate == "dropped"},
        "scores": scored,
    }
    for metric in ("accuracy", "balanced_accuracy"):
        of = {name: values[metric] for name, values in scored.items()}
        if not of:
            continue
        best, worst = (max if up else min for up in (True, False))
        shown[metric] = {
            "pick": of[record.shipped],
            "source_model": of[AS_IT_IS],
            "source_only": of.get(REFERENCE),
            "best_candidate": best((of[name] for name in candidates), default=None),
            "worst_candidate": worst((of[name] for name in candidates), default=None),
            "gain": round(of[record.shipped] - of[AS_IT_IS], 4),
        }
    return shown


def write_shifted(folder: Path, n: int) -> None:
    """Write generated faces whose class shares fall from 10 to 1 in equal ratios."""
    faces = SynthFER("wild", n=n, seed=3)
    most = n // len(faces.classes)
    for number, name in enumerate(faces.classes):
        own = np.flatnonzero(faces.labels == number)
        kept = own[: round(most * 10 ** (-number / (len(faces.classes) - 1)))]
        for i, image in zip(kept.tolist(), faces.render(kept), strict=True):
            write_image(folder / name / f"{i}.png", image)


def write_patterns(folder: Path, n: int) -> None:
    """Write images of bars and spots, under names of expressions."""
    rng, at = np.random.default_rng(0), np.linspace(-1, 1, SIDE)
    for number in range(n):
        kind, (x, y, turn, wide) = number % len(PATTERNS), rng.uniform([-0.5, -0.5, 0, 0.1], [0.5, 0.5, np.pi, 0.4])
        across = (at[None] - x) * np.cos(turn) + (at[:, None] - y) * np.sin(turn)
        far = np.hypot(at[None] - x, at[:, None] - y)
        shape = (np.abs(across) < wide, far < wide, np.sin(across / wide * 3) > 0, np.abs(far - 2 * wide) < wide / 2)
        grey = np.where(shape[kind], *rng.uniform(0, 200, 2))[..., None] + rng.normal(0, 15, (SIDE, SIDE, 3))
        write_image(folder / PATTERNS[kind] / f"{number}.png", grey.clip(0, 255).astype(np.uint8))


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image u8[H,W,3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def hurting(kind: str, out: Path, n: int) -> dict[str, Any]:
    """Write the target of a pair on which adapting must not be believed; return what `fercore.adapt` is given."""
    folder = out / f"{kind}_images"
    if not folder.exists():
        (write_shifted if kind == "shift" else write_patterns)(folder, n)
    given = {"source": f"synthfer:studio?n={n}", "target": f"folder:{folder}", "faces": "whole"}
    return {**given, "method": [BLIND_LABEL]} if kind == "shift" else given


def with_blind() -> list[Row]:
    """Return the portfolio with a row more, which takes class shares for even ones whatever they are."""
    return [*portfolio(), *read_rows(BLIND, "bench.adapt")]


def run(args: argparse.Namespace) -> None:
    """Adapt one pair, score it, and write its figures."""
    if args.hurt is None and (args.pair is None or args.target is None or args.budget is None):
        raise UserInputError("no pair", where="bench.adapt", fix="give --pair, --target and --budget, or --hurt")
    name = args.pair or args.hurt
    given: dict[str, Any] = {"source": args.source, "target": args.target}
    if args.hurt is not None:
        given = hurting(args.hurt, args.folder, args.n)
    if args.method:
        given["method"] = args.method
    given |= {"init": args.init, "preset": args.preset, "set": args.set, "seed": args.seed}
    begun, budget = time.perf_counter(), seconds_of(args.budget)
    with mock.patch.object(probe, "portfolio", with_blind if args.hurt == "shift" else portfolio):
        done = fercore.adapt(
            **given, budget=args.budget, out=args.folder / name, jobs=args.jobs, report_faces=False,
            tell=lambda line: print_lines([line]),
        )  # fmt: skip
    seconds = time.perf_counter() - begun
    shown = figures(done, score(done, None if args.test is None else folder_or_spec(args.test)), seconds, budget)
    write_json(args.folder / f"{name}.json", {"pair": name, **shown})
    print_lines([json.dumps(shown)])


def table(folder: Path) -> dict[str, Any]:
    """Return the figures of all pairs of a folder, with means and worst cases of the picks."""
    pairs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    gains = [pair["accuracy"]["gain"] for pair in pairs if "accuracy" in pair]
    behind = [
        round(pair["accuracy"]["best_candidate"] - pair["accuracy"]["pick"], 4)
        for pair in pairs
        if pair.get("accuracy", {}).get("best_candidate") is not None
    ]
    return {
        "pairs": pairs,
        "mean_gain": round(float(np.mean(gains)), 4) if gains else None,
        "worst_gain": min(gains, default=None),
        "most_behind_best": max(behind, default=None),
        "most_over_budget": max((pair["over_budget"] for pair in pairs), default=None),
    }


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name in ("--pair", "--init", "--target", "--test", "--budget", "--preset"):
        parser.add_argument(name)
    parser.add_argument("--source", action="append", default=[])
    for name in ("--method", "--set"):
        parser.add_argument(name, nargs="*", default=[])
    parser.add_argument("--hurt", choices=HURT)
    parser.add_argument("--n", type=int, default=1400, help="images of each domain of --hurt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.table is not None:
        write_json(args.table, table(args.folder))
    else:
        args.budget = args.budget or ("10m" if args.hurt else None)
        run(args)


if __name__ == "__main__":
    main()
