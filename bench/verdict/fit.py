"""Fits the verdict on the pairs of even cells that `bench.verdict.train` made, and tests it on those of odd ones.

    python -m bench.verdict.fit WORK [--real WORK] [--out bench/results/verdict.json]
    python -m bench.verdict.fit --again bench/results/verdict.json [--real WORK]

Prints weights, threshold and spread for every set of witnesses (`fercore.evaluation.verdict.FITTED`), how often the
verdict decides and is right on the test pairs, what thirty labels are worth, and how well every score ranks the models
of a cell. Nothing of the test pairs goes into a fit, nor of the pairs of real faces under `--real`, which are tested
alike. `--again` works out anew what follows from the pairs that a file of results has: fits, how they are tested, and
what labels are worth.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from bench.verdict.train import METHODS
from fercore.evaluation import verdict
from fercore.evaluation.selection import AGGREGATE, VALIDATORS, Evidence, aggregate, best, is_pooled, score_pool
from fercore.writing import write_json

PREDICTIONS, OTHERS, RECORDED, FEATURES = {"models", "information"}, {"ensemble"}, {"class_ami"}, {"neighbours"}
SETS = [
    PREDICTIONS | others | features for others in (set(), OTHERS) for features in (set(), RECORDED, RECORDED | FEATURES)
]
"""Witnesses that two models have, those beside with other candidates at hand, with the scores that runs record, and
where the models are run."""
LEVEL, RIGHT, CLEAR, RIDGE, LEVELS = 0.9, 0.85, 0.02, 5.0, (0.85, 0.9, 0.95)
"""Of the interval, of the words; the gap that counts; the penalty, for witnesses of equal scale; chances at which
labelling ends."""
ONE_RIGHT = 0.45
"""Share of disagreements on which one of the two models is right, where it was not recorded: with it thirty labels
alone have the right sign as often as was recorded of those pairs."""
Pair = dict[str, Any]


def read_cells(work: Path) -> dict[int, dict[str, dict[str, np.ndarray]]]:
    """Return cell -> method -> arrays, the images of a cell in the order of its reference."""
    cells: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    for path in sorted(work.glob("*.npz")):
        cell, method = path.stem.split("-")
        with np.load(path, allow_pickle=False) as values:
            cells.setdefault(int(cell), {})[method] = {key: values[key] for key in values.files}
    most = max(map(len, cells.values()))  # a cell in training is left out
    whole = {cell: models for cell, models in sorted(cells.items()) if len(models) == most}
    for models in whole.values():
        keys = models["source_only"]["keys"].tolist()
        if any(model["keys"].tolist() != keys for model in models.values()):
            raise ValueError("models of a cell that are not of the same images")
    return whole


def pairs_of(cells: dict[int, dict[str, dict[str, np.ndarray]]]) -> list[Pair]:
    """Return a row for every pair: what each witness says, and the truth."""
    rows = []
    for cell, models in cells.items():
        truth, reference = models["source_only"]["truth"], models["source_only"]
        for method in [name for name in METHODS[1:] if name in models]:
            sides = [reference, models[method]]
            probs = [side["target_probs"].astype(np.float64) for side in sides]
            others = [models[name]["target_probs"] for name in models if name not in ("source_only", method)]
            features = [side["target_features"].astype(np.float64) for side in sides]
            gaps = (probs[1].argmax(1) == truth).astype(float) - (probs[0].argmax(1) == truth)
            apart = verdict.disagreements(*probs)
            rows.append(
                {
                    "cell": cell,
                    "method": method,
                    "n": len(truth),
                    "disagreements": len(apart),
                    "difference": float(gaps.mean()),
                    "witnesses": verdict.witnesses(*probs, others=others, features=features),
                    "gaps": gaps[apart],
                }
            )
    return rows


def recorded_pairs(record: dict[str, Any]) -> list[Pair]:
    """Return the pairs of a file of results, with gaps of their disagreements in some order."""
    rows = []
    for row in record["pairs"]:
        gain = round(row["difference"] * row["n"])
        # Of pairs that were trained before this was recorded; see `ONE_RIGHT`.
        either = max(abs(gain), round(ONE_RIGHT * row["disagreements"]))
        better, worse = row.get("better", (either + gain) // 2), row.get("worse", (either - gain) // 2)
        gaps = np.repeat([1, -1, 0], [better, worse, row["disagreements"] - better - worse])
        rows.append({**row, "gaps": gaps})
    return rows


def weights_of(rows: Sequence[Pair], names: Sequence[str]) -> np.ndarray:
    """Return f[W] >= 0 of least squares with a ridge; a witness is never believed backwards."""
    said = np.array([[row["witnesses"][name] for name in names] for row in rows])
    true = np.array([row["difference"] for row in rows])
    scale = np.sqrt((said**2).mean(axis=0))
    rows_of_ridge = np.sqrt(RIDGE) * np.eye(len(names))
    weights, _ = nnls(np.vstack([said / scale, rows_of_ridge]), np.append(true, np.zeros(len(names))))
    found: np.ndarray = weights / scale
    return found


def fitted(rows: Sequence[Pair], names: Sequence[str]) -> verdict.Fit:
    """Fit weights on all pairs; threshold and spread on what is said of each cell by the others' weights.

    Of the witnesses those are heard whose word on cells that are left out is off by the least.
    """
    true = np.array([row["difference"] for row in rows])
    parts = [part for size in range(1, len(names) + 1) for part in combinations(names, size)]
    heard = min(parts, key=lambda part: float(((left_out(rows, part) - true) ** 2).sum()))
    middles = left_out(rows, heard)
    residuals = np.sort(np.abs(true - middles))
    spread = residuals[min(len(rows), math.ceil(LEVEL * (len(rows) + 1))) - 1]
    weights = weights_of(rows, heard)
    kept = {name: float(weight) for name, weight in zip(heard, weights, strict=True) if weight > 0}
    return verdict.Fit(frozenset(names), kept, float(threshold_of(middles, true)), float(spread))


def left_out(rows: Sequence[Pair], names: Sequence[str]) -> np.ndarray:
    """Return what is said of every pair by weights that its cell had no part in."""
    said = np.array([[row["witnesses"][name] for name in names] for row in rows])
    cell = np.array([row["cell"] for row in rows])
    middles = np.zeros(len(rows))
    for one in set(cell.tolist()):
        weights = weights_of([row for row in rows if row["cell"] != one], names)
        middles[cell == one] = said[cell == one] @ weights
    return middles


def threshold_of(middles: np.ndarray, true: np.ndarray) -> float:
    """Return the smallest |difference| said beyond which enough of the clear pairs have the right sign."""
    clear = np.abs(true) > CLEAR
    said, right = np.abs(middles[clear]), np.sign(middles[clear]) == np.sign(true[clear])
    for edge in np.concatenate([[0.0], np.sort(said)]):
        beyond = said > edge
        if not beyond.any() or right[beyond].mean() >= RIGHT:
            return float(edge)
    return float(said.max())


def tested(rows: Sequence[Pair], fit: verdict.Fit) -> dict[str, Any]:
    """Return how the words and intervals of a fit fare on pairs, beside who always and who never adapts."""
    middles = np.array([sum(weight * row["witnesses"][name] for name, weight in fit.weights.items()) for row in rows])
    true = np.array([row["difference"] for row in rows])
    clear = np.abs(true) > CLEAR
    right, decided = np.sign(middles) == np.sign(true), np.abs(middles) > fit.threshold
    return {
        "pairs": len(rows),
        "clear": int(clear.sum()),
        "decided": int((clear & decided).sum()),
        "decided_right": int((clear & decided & right).sum()),
        "sign_right": int((clear & right).sum()),
        "always_adapt_right": int((clear & (true > 0)).sum()),
        "never_adapt_right": int((clear & (true < 0)).sum()),
        "decided_of_the_rest": int((~clear & decided).sum()),
        "in_the_interval": int((np.abs(true - middles) <= fit.spread).sum()),
        "correlation": round(float(np.corrcoef(middles, true)[0, 1]), 3),
    }


def with_labels(rows: Sequence[Pair], most: int = 30, draws: int = 300) -> dict[str, Any]:
    """Return what labels of disagreements, drawn with equal chances, say of the clear pairs.

    `labels_needed`: until the e-value of one who looks after every label reaches 20, where it does. `together`: with
    what is expected without labels, the sign of `most` labels, and of one who looks after every label, from the tenth
    on, until the chance of either model reaches a level.
    """
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(("draws", "sign_right", "decided", "decided_right", "early", "early_right", "together"), 0)
    needed, stops = list[int](), {level: list[tuple[int, bool]]() for level in LEVELS}
    for row in [row for row in rows if abs(row["difference"]) > CLEAR]:
        helped, before = row["difference"] > 0, verdict.expected(row["witnesses"])
        for _ in range(draws):
            drawn = rng.permutation(row["gaps"])
            better, worse = np.cumsum(drawn > 0), np.cumsum(drawn < 0)
            last = min(most, len(drawn)) - 1
            settled = verdict.mcnemar(int(better[last]), int(worse[last])) < 0.05
            agrees = bool(better[last] > worse[last]) == helped and better[last] != worse[last]
            counts["draws"] += 1
            counts["sign_right"] += agrees
            counts["decided"] += settled
            counts["decided_right"] += settled and agrees
            looks = [verdict.e_value(int(b), int(w)) >= 20 for b, w in zip(better, worse, strict=True)]
            if any(looks):
                first = looks.index(True)
                needed.append(first + 1)
                counts["early"] += 1
                counts["early_right"] += bool(better[first] > worse[first]) == helped
            chances = chances_of(better, worse, len(drawn), row["n"], before)
            counts["together"] += bool(chances[last] > 0.5) == helped
            for level, stopped in stops.items():
                sure = np.maximum(chances, 1 - chances) >= level
                sure[:9], sure[-1] = False, True  # all of them labelled is an answer
                first = int(sure.argmax())
                stopped.append((first + 1, bool(chances[first] > 0.5) == helped))
    total = max(1, counts["draws"])
    return {
        "labels": most,
        "sign_right": round(counts["sign_right"] / total, 3),
        "decided": round(counts["decided"] / total, 3),
        "decided_right": round(counts["decided_right"] / max(1, counts["decided"]), 3),
        "ever_settled": round(counts["early"] / total, 3),
        "settled_right": round(counts["early_right"] / max(1, counts["early"]), 3),
        "labels_needed": {
            "mean": round(float(np.mean(needed)), 1),
            "median": float(np.median(needed)),
            "at_most_30": round(float(np.mean([each <= most for each in needed])) * counts["early"] / total, 3),
        },
        "together": {
            "sign_right": round(counts["together"] / total, 3),
            "until_chance": {str(level): stopped_of(stopped, most) for level, stopped in stops.items()},
        },
    }


def chances_of(better: np.ndarray, worse: np.ndarray, apart: int, n: int, before: verdict.Expected) -> np.ndarray:
    """Return f[d], the chance that the adapted model is better after each label."""
    rows = zip(better.tolist(), worse.tolist(), range(1, apart + 1), strict=True)
    return np.array([verdict.chance_better(b, w, m, apart, n, before) for b, w, m in rows])


def stopped_of(stopped: Sequence[tuple[int, bool]], most: int) -> dict[str, float]:
    """Return how many labels were needed, and how often the answer was right."""
    labels = [n for n, _ in stopped]
    return {
        "right": round(float(np.mean([right for _, right in stopped])), 3),
        "mean": round(float(np.mean(labels)), 1),
        "median": float(np.median(labels)),
        "at_most_30": round(float(np.mean([n <= most for n in labels])), 3),
    }


def score_table(cells: dict[int, dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, Any]]:
    """Return rank correlation with the true accuracy, and the regret of the choice, of every score over all cells.

    The worst pick is the number of cells in which the score takes the worst of the models.
    """
    told: dict[str, list[tuple[float, float, bool]]] = {}
    for models in cells.values():
        accuracy = np.array([(m["target_probs"].argmax(1) == m["truth"]).mean() for m in models.values()])
        for name, values in scores_of(models).items():
            known = ~np.isnan(values)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a score that is the same for all has no rank
                rho = float(spearmanr(values[known], accuracy[known]).statistic) if known.sum() > 1 else float("nan")
            if not known.any():
                continue
            taken = best(values)
            regret = float(accuracy.max() - accuracy[taken])
            told.setdefault(name, []).append((rho, regret, bool(accuracy[taken] == accuracy.min())))
    return {
        name: {
            "cells": len(rows),
            "rank_correlation": _rounded([rho for rho, _, _ in rows if not math.isnan(rho)]),
            "regret": _rounded([regret for _, regret, _ in rows]),
            "worst_regret": round(max(regret for _, regret, _ in rows), 4),
            "worst_picks": sum(worst for _, _, worst in rows),
        }
        for name, rows in told.items()
    }


def scores_of(models: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return name -> f[M], every score of the models of a cell, and the aggregate."""
    every = list(models.values())
    names = every[0]["score_names"].tolist()
    scores = {name: np.array([model["scores"][at] for model in every]) for at, name in enumerate(names)}
    evidence = [
        Evidence(m["target_probs"], source_probs=m["source_probs"], source_labels=m["source_labels"]) for m in every
    ]
    scores |= {name: score_pool(name, evidence) for name in VALIDATORS.builtin if is_pooled(name)}
    return scores | {"aggregate": aggregate({name: scores[name] for name in AGGREGATE if name in scores})}


def _rounded(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None


def costs(cells: dict[int, dict[str, dict[str, np.ndarray]]]) -> dict[str, float]:
    """Return CPU seconds: of training, of running what all scores need, and of the dearest score and of all of them."""
    every = [model for models in cells.values() for model in models.values()]
    trained, gathered = np.mean([model["seconds"] for model in every], axis=0)
    seconds = np.mean([model["score_seconds"] for model in every], axis=0)
    return {
        "train": round(float(trained), 2),
        "outputs": round(float(gathered), 2),
        "dearest_score": round(float(seconds.max()), 2),
        "all_scores": round(float(seconds.sum()), 2),
    }


def again(path: Path, real: Path | None) -> None:
    """Work out anew what follows from the pairs of a file of results, and write it there.

    Args:
        path: of the file. real: pairs of real faces that are tested on those fits, in place of those it has.
    """
    record = json.loads(path.read_text())
    rows = recorded_pairs(record)
    fit_rows, test_rows = ([row for row in rows if row["cell"] % 2 == side] for side in (0, 1))
    record |= fits_of(fit_rows, test_rows)
    whole = all("better" in row for row in record["pairs"])
    name = "labels" if whole else "labels_if_one_is_right_in_45_percent"
    record[name] = {side: with_labels(part) for side, part in (("fit", fit_rows), ("test", test_rows))}
    if real is not None:
        record |= tested_on(read_cells(real), fit_rows)
    write_json(path, record)
    print(
        json.dumps({key: record[key] for key in (name, "real", "real_labels", "real_pairs") if key in record}, indent=1)
    )


def tested_on(real: dict[int, dict[str, dict[str, np.ndarray]]], fit_rows: Sequence[Pair]) -> dict[str, Any]:
    """Return how the fits do on pairs of real faces, what labels are worth there, and how scores rank the models."""
    rows = pairs_of(real)
    fits = {"+".join(sorted(names)): fitted(fit_rows, sorted(names)) for names in SETS}
    return {
        "real": {key: tested(rows, fit) for key, fit in fits.items()},
        "real_labels": with_labels(rows),
        "real_scores": score_table(real),
        "real_pairs": recorded(rows),
    }


def recorded(rows: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return pairs as the file of results has them."""
    return [
        {
            **{key: row[key] for key in ("cell", "method", "n", "disagreements")},
            "better": int((row["gaps"] > 0).sum()),
            "worse": int((row["gaps"] < 0).sum()),
            "difference": round(row["difference"], 4),
            "witnesses": {name: round(value, 4) for name, value in row["witnesses"].items()},
        }
        for row in rows
    ]


def fits_of(fit_rows: Sequence[Pair], test_rows: Sequence[Pair]) -> dict[str, Any]:
    """Return what every set of witnesses is worth, and how that does on the test pairs."""
    fits = {"+".join(sorted(names)): fitted(fit_rows, sorted(names)) for names in SETS}
    return {
        "fitted": {
            key: {
                "needs": sorted(fit.needs),
                "weights": {name: round(weight, 3) for name, weight in fit.weights.items()},
                "threshold": round(fit.threshold, 4),
                "spread": round(fit.spread, 4),
            }
            for key, fit in fits.items()
        },
        "tested": {key: tested(test_rows, fit) for key, fit in fits.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--again", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench/results/verdict.json"))
    given = parser.parse_args()
    if given.again:
        again(given.again, given.real)
        return
    if given.work is None:
        parser.error("give WORK, or --again FILE")
    cells = read_cells(given.work)
    rows, real = pairs_of(cells), read_cells(given.real) if given.real else {}
    fit_rows, test_rows = ([row for row in rows if row["cell"] % 2 == side] for side in (0, 1))
    record: dict[str, Any] = {"fit_pairs": len(fit_rows), "test_pairs": len(test_rows), **fits_of(fit_rows, test_rows)}
    record["labels"] = {side: with_labels(part) for side, part in (("fit", fit_rows), ("test", test_rows))}
    record["scores"] = score_table(cells)
    if real:
        record |= tested_on(real, fit_rows)
    record["cpu_seconds"] = costs(cells)
    record["pairs"] = recorded(rows)
    write_json(given.out, record)
    print(json.dumps({key: record[key] for key in record if key != "pairs"}, indent=1))


if __name__ == "__main__":
    main()
