"""Trains pairs of (reference, adapted) on generated faces, to fit and test the verdict on; minutes a domain pair.

    python -m bench.verdict.train WORK [--cells 0,1,2]

Writes WORK/CELL-METHOD.npz: what each model says of the adaptation part, and the truth, which training never sees. What
is there is not trained again. `bench.verdict.fit` makes the table of it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from fercore.data import side_table
from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks.assemble import assemble
from fercore.records.step import Progress

METHODS = ("source_only", "la_cmfer", "pocan", "adafer", "fixmatch", "dan")
NATURAL = "&prior=natural"
CELLS = (
    (("posed", "web"), "studio", NATURAL),
    (("studio", "posed"), "web", ""),
    (("studio", "posed"), "nir", ""),
    (("posed", "web"), "dark", NATURAL),
    (("studio", "web"), "posed", NATURAL),
    (("studio", "web"), "wild", ""),
    (("web", "nir"), "studio", ""),
    (("studio", "wild"), "posed", ""),
    (("posed", "web"), "thermal", NATURAL),
    (("studio", "posed", "web"), "wild", NATURAL),
    (("wild", "web"), "nir", NATURAL),
    (("studio", "nir"), "web", NATURAL),
)
"""Sources, target, and the option of its class shares: even cells are for fitting, odd ones for testing."""


def settings(cell: int, method: str) -> dict:
    sources, target, prior = CELLS[cell]
    data = {
        "sources": [f"synthfer:{style}?n=900&seed={cell * 10 + i}" for i, style in enumerate(sources)],
        "target": f"synthfer:{target}?n=900&seed={cell * 10 + 9}{prior}",
        "size": 48,
    }
    channels = {"backbone": "resnet18", "backbone_args": {"resnet18": {"channels": [16, 32, 48, 64]}}}
    train = {"steps": 200, "checkpoint_every": 10**6, "threads": 1}
    if method == "adafer":
        data["au"] = "synthfer"
    return {
        "seed": cell, "device": "cpu", "data": data, "model": channels, "train": train, "report": {"tensorboard": False}
    }  # fmt: skip


def train(cell: int, method: str, out: Path) -> None:
    context = build_context(assemble([method], [settings(cell, method)], preset="demo"))
    with tempfile.TemporaryDirectory() as folder:
        run(context, Path(folder) / "run", Observer())
    clock = Progress("end", "", 0, 0, 1)
    target = context.evaluator.predict(context.reported, context.domains.adaptation, clock)
    source = context.evaluator.predict(context.reported, side_table(context.domains, "source"), clock)
    features = np.concatenate([target.features[name] for name in sorted(target.features)], axis=1)
    np.savez_compressed(
        out,
        probs=target.probs,
        features=features.astype(np.float16),
        truth=context.domains.truth,
        keys=np.array(context.domains.adaptation.keys),
        source_accuracy=(source.probs.argmax(1) == source.labels).mean(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cells", default=",".join(map(str, range(len(CELLS)))))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for cell in map(int, given.cells.split(",")):
        for method in METHODS:
            out = given.work / f"{cell}-{method}.npz"
            if not out.exists():
                train(cell, method, out)
                print(out.name, flush=True)


if __name__ == "__main__":
    main()
