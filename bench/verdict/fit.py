"""Fits the verdict on the pairs of even cells that `bench.verdict.train` made, and tests it on those of odd ones.

    python -m bench.verdict.fit WORK [--out bench/results/verdict.json]

Prints slope and spread for every set of witnesses (`fercore.evaluation.verdict.FITTED`), how often the verdict decides
and is right on the test pairs, and how well every score ranks the models of a cell.
"""

from __future__ import annotations

import argparse
import json
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bench.verdict.train import METHODS
from fercore.evaluation import verdict as module
from fercore.evaluation.selection import AGGREGATE, VALIDATORS, Evidence, aggregate, best, needs, score_pool

FREE = {"target_probs", "target_logits", "target_features"}
SETS = [("models", *more) for size in range(3) for more in combinations(("ensemble", "neighbours"), size)]
LEVEL, CLEAR = 0.9, 0.02


def cells(work: Path) -> dict[int, dict[str, dict]]:
    found: dict[int, dict[str, dict]] = {}
    for path in sorted(work.glob("*.npz")):
        cell, method = path.stem.split("-")
        with np.load(path, allow_pickle=False) as values:
            found.setdefault(int(cell), {})[method] = {key: values[key] for key in values.files}
    return {cell: models for cell, models in found.items() if "source_only" in models and len(models) > 2}


def pairs(found: dict[int, dict[str, dict]]) -> list[dict]:
    """One row a pair: what each witness says of the disagreements, and the truth."""
    rows = []
    for cell, models in found.items():
        reference, order = models["source_only"], {}
        for method, model in models.items():
            at = {key: i for i, key in enumerate(model["keys"].tolist())}
            order[method] = [at[key] for key in reference["keys"].tolist()]
        truth = reference["truth"]
        for method in [name for name in METHODS[1:] if name in models]:
            sides = [models[name]["probs"][order[name]] for name in ("source_only", method)]
            others = [m["probs"][order[n]] for n, m in models.items() if n not in ("source_only", method)]
            features = [models[n]["features"][order[n]].astype(np.float64) for n in ("source_only", method)]
            apart = np.flatnonzero(sides[0].argmax(1) != sides[1].argmax(1))
            said = module.witnesses(*sides, apart, others=others, features=features)
            gaps = (sides[1].argmax(1) == truth).astype(float) - (sides[0].argmax(1) == truth)
            rows.append(
                {
                    "cell": cell,
                    "method": method,
                    "n": len(truth),
                    "disagreements": len(apart),
                    "difference": gaps.mean(),
                    "on_disagreements": gaps[apart].mean(),
                    "gaps": gaps[apart],
                    "witnesses": {name: gains.mean() for name, gains in said.items()},
                }
            )
    return rows


def fitted(rows: list[dict], names: tuple[str, ...]) -> tuple[float, float]:
    """Slope by least squares through 0; spread = the residual that 90 % of the pairs stay within, on disagreements.

    The quantile is that of conformal prediction; of fewer than 9 pairs it is the largest residual, which promises less.
    """
    said = np.array([np.mean([row["witnesses"][name] for name in names]) for row in rows])
    true = np.array([row["on_disagreements"] for row in rows])
    slope = max(0.0, float(said @ true / (said @ said)))
    residuals = np.sort(np.abs(true - slope * said))
    at = min(len(residuals), int(np.ceil(LEVEL * (len(residuals) + 1)))) - 1
    return slope, float(residuals[at])


def tested(rows: list[dict], names: tuple[str, ...], slope: float, spread: float) -> dict:
    clear = [row for row in rows if abs(row["difference"]) > CLEAR]
    middles = [slope * np.mean([row["witnesses"][name] for name in names]) for row in clear]
    decided = [(m, row) for m, row in zip(middles, clear, strict=True) if abs(m) > spread]
    right = sum(bool(m > 0) == bool(row["difference"] > 0) for m, row in decided)
    signs = sum(bool(m > 0) == bool(row["difference"] > 0) for m, row in zip(middles, clear, strict=True))
    helped = sum(bool(row["difference"] > 0) for row in clear)
    return {
        "pairs": len(rows),
        "clear": len(clear),
        "decided": len(decided),
        "decided_right": right,
        "sign_right": signs,
        "always_adapt_right": helped,
        "never_adapt_right": len(clear) - helped,
    }


def with_thirty_labels(rows: list[dict], draws: int = 500) -> dict:
    """How often 30 labels of disagreements have the right sign, and how often McNemar's test decides and is right."""
    rng = np.random.default_rng(0)
    signs = decided = right = total = 0
    for row in [row for row in rows if abs(row["difference"]) > CLEAR]:
        gaps, adapted = row["gaps"], row["difference"] > 0
        for _ in range(draws):
            drawn = rng.choice(gaps, min(30, len(gaps)), replace=False)
            better, worse = int((drawn > 0).sum()), int((drawn < 0).sum())
            settled = module.mcnemar(better, worse) < 0.05
            agrees = (better > worse) == adapted and better != worse
            signs, total = signs + agrees, total + 1
            decided, right = decided + settled, right + (settled and agrees)
    return {
        "sign_right": round(signs / max(1, total), 3),
        "decided": round(decided / max(1, total), 3),
        "decided_right": round(right / max(1, decided), 3),
    }


def scores(found: dict[int, dict[str, dict]]) -> dict[str, dict]:
    """Rank correlation with the true accuracy, and regret of the choice, for what needs the target's outputs alone."""
    names = [name for name in VALIDATORS.builtin if set(needs(name)) <= FREE]
    told: dict[str, list[tuple[float, float]]] = {}
    for models in found.values():
        first = next(iter(models.values()))["keys"].tolist()
        evidence, accuracy = [], []
        for model in models.values():
            at = {key: i for i, key in enumerate(model["keys"].tolist())}
            rows = [at[key] for key in first]
            probs = model["probs"][rows]
            logits = np.log(np.maximum(probs, 1e-30))
            evidence.append(Evidence(probs, logits, model["features"][rows].astype(np.float64)))
            accuracy.append((probs.argmax(1) == model["truth"][rows]).mean())
        own = {name: score_pool(name, evidence) for name in names}
        own["aggregate"] = aggregate({name: own[name] for name in AGGREGATE if name in own})
        for name, values in own.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rho = float(spearmanr(values, accuracy).statistic)
            told.setdefault(name, []).append((rho, max(accuracy) - accuracy[best(values)]))
    return {
        name: {
            "rank_correlation": round(float(np.nanmean([rho for rho, _ in rows])), 3),
            "regret": round(float(np.mean([regret for _, regret in rows])), 4),
            "worst_regret": round(float(max(regret for _, regret in rows)), 4),
        }
        for name, rows in told.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench/results/verdict.json"))
    given = parser.parse_args()
    found = cells(given.work)
    rows = pairs(found)
    fit, test = ([row for row in rows if row["cell"] % 2 == side] for side in (0, 1))
    record: dict = {"fit_pairs": len(fit), "test_pairs": len(test), "fitted": {}, "tested": {}}
    for names in SETS:
        slope, spread = fitted(fit, names)
        record["fitted"]["+".join(names)] = [round(slope, 3), round(spread, 3)]
        record["tested"]["+".join(names)] = tested(test, names, slope, spread)
    record["thirty_labels"] = with_thirty_labels(rows)
    record["scores"] = scores(found)
    record["pairs"] = [
        {
            **{key: value for key, value in row.items() if key != "gaps"},
            "witnesses": {name: round(v, 4) for name, v in row["witnesses"].items()},
        }
        | {key: round(row[key], 4) for key in ("difference", "on_disagreements")}
        for row in rows
    ]
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({key: record[key] for key in record if key != "pairs"}, indent=1))


if __name__ == "__main__":
    main()
