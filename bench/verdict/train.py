"""Trains pairs of (reference, adapted) on generated faces, to fit and test the verdict on; minutes a domain pair.

    python -m bench.verdict.train WORK [--cells 0,1,2]
    python -m bench.verdict.train WORK --source SPEC --target SPEC [--cells 0,1,2]

The second is a pair of one's own, such as of real faces: cells are its seeds.
Writes WORK/CELL-METHOD.npz: what each model says of the adaptation part and of held-out source, every score that needs
the network itself, the seconds that training and scores took, and the truth, which neither of them sees. What is there
is not trained again. `bench.verdict.fit` makes the table of it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.engine.selection import gather
from fercore.engine.setup import build_context
from fercore.evaluation.selection import VALIDATORS, is_pooled, score_pool
from fercore.hooks.assemble import assemble
from fercore.records.step import Progress

METHODS = ("source_only", "la_cmfer", "pocan", "adafer", "fixmatch", "dan")
EVEN, SKEWED = "", "&prior=natural"
CELLS = (
    (("posed", "web"), EVEN, "studio", SKEWED),
    (("studio", "posed"), EVEN, "web", SKEWED),
    (("studio", "posed"), EVEN, "nir", EVEN),
    (("posed", "web"), EVEN, "dark", EVEN),
    (("studio", "web"), EVEN, "wild", SKEWED),
    (("studio", "web"), SKEWED, "posed", EVEN),
    (("web", "nir"), SKEWED, "studio", EVEN),
    (("studio", "wild"), EVEN, "posed", EVEN),
    (("wild", "web"), SKEWED, "nir", EVEN),
    (("studio", "posed", "web"), EVEN, "wild", SKEWED),
    (("studio", "nir"), EVEN, "web", SKEWED),
    (("posed", "web"), EVEN, "thermal", EVEN),
)
"""Sources and their class shares, target and its own: even cells are for fitting, odd ones for testing. Skewed shares
are those of real collections: 19 to 1 between happiness and fear in wild, 12 to 1 in web, 4 to 1 in studio."""
DAN_WEIGHT = 4.0
"""Of DAN's term: with it the method aligns shares of classes that differ, and hurts where they do."""
FIRST_STEPS, STEPS = 300, 100
"""Training on the sources alone that all methods of a domain pair start from, and that of each method after it: as
pretrained weights are for real images."""


Pair: TypeAlias = tuple[str, str] | None
"""SPECs of a source and a target of one's own; None = those of `CELLS`."""


def settings(cell: int, method: str, weights: str, own: Pair) -> dict[str, Any]:
    data: dict[str, Any] = {"size": 40, "source_batch": 32, "target_batch": 32, "source_validation": 0.2}
    if own is None:
        sources, prior, target, target_prior = CELLS[cell]
        specs = [f"synthfer:{style}?n=600&seed={cell * 10 + i}{prior}" for i, style in enumerate(sources)]
        data |= {"sources": specs, "target": f"synthfer:{target}?n=900&seed={cell * 10 + 9}{target_prior}"}
        data["au"] = "synthfer"
    else:
        data |= {"sources": [own[0]], "target": own[1]}
    values: dict[str, Any] = {
        "seed": cell,
        "device": "cpu",
        "data": data,
        "model": {
            "backbone": "resnet18",
            "backbone_args": {"resnet18": {"channels": [16, 32, 48, 64]}},
            "weights": weights,
        },
        "train": {"steps": FIRST_STEPS if weights == "none" else STEPS, "checkpoint_every": 10**6, "threads": 1},
        "report": {"tensorboard": False},
    }
    return values | ({"dan": {"weight": DAN_WEIGHT}} if method == "dan" else {})


def first_weights(cell: int, work: Path, own: Pair) -> str:
    """Return the weights that every method of a cell starts from, trained if they are not there."""
    path = work / f"{cell}-first"
    found = sorted(path.glob("checkpoints/*/state.safetensors"))
    if not found:
        shutil.rmtree(path, ignore_errors=True)
        context = build_context(assemble(["source_only"], [settings(cell, "source_only", "none", own)], preset="demo"))
        run(context, path, Observer())
        found = sorted(path.glob("checkpoints/*/state.safetensors"))
    return str(found[-1])


def train(cell: int, method: str, out: Path, weights: str, own: Pair) -> None:
    context = build_context(assemble([method], [settings(cell, method, weights, own)], preset="demo"))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        run(context, Path(folder) / "run", Observer())
        trained = time.process_time() - started
    names = [name for name in VALIDATORS.builtin if not is_pooled(name)]
    started = time.process_time()
    evidence = gather(context, Progress("end", "", 0, 0, 1), tuple(VALIDATORS.builtin))
    gathered = time.process_time() - started
    scores, seconds = [], []
    for name in names:
        started = time.process_time()
        scores.append(float(score_pool(name, [evidence])[0]))
        seconds.append(time.process_time() - started)
    arrays = {name: value for name, value in vars(evidence).items() if isinstance(value, np.ndarray)}
    np.savez_compressed(
        out,
        **{name: value.astype(np.float16) if "features" in name else value for name, value in arrays.items()},
        truth=context.domains.truth,
        keys=np.array(context.domains.adaptation.keys),
        scores=np.array(scores),
        score_names=np.array(names),
        score_seconds=np.array(seconds),
        seconds=np.array([trained, gathered]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cells", default="")
    parser.add_argument("--source")
    parser.add_argument("--target")
    given = parser.parse_args()
    own = None if given.source is None else (given.source, given.target)
    chosen = given.cells or ("0,1,2" if own else ",".join(map(str, range(len(CELLS)))))
    # Action units of real faces need a detector, so adafer sits out.
    methods = [name for name in METHODS if own is None or name != "adafer"]
    given.work.mkdir(parents=True, exist_ok=True)
    for cell in map(int, chosen.split(",")):
        for method in methods:
            out = given.work / f"{cell}-{method}.npz"
            if not out.exists():
                train(cell, method, out, first_weights(cell, given.work, own), own)
                print(out.name, flush=True)


if __name__ == "__main__":
    main()
