"""Where a LA-CMFER step's CPU time goes, with the compiled ops or the reference: `python -m bench.step [--size 64]`.

Run it twice, the second time with FERCORE_KERNELS=reference. Milliseconds of one thread, medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from fercore import ops
from fercore.engine.setup import build_context
from fercore.hooks.assemble import assemble
from fercore.records.step import Progress

NAMES = ("studio", "posed", "web", "nir", "dark")


def settings(size: int, batch: int) -> dict:
    """Five synthetic sources of `batch` samples each against a target of `batch`."""
    return {
        "seed": 0,
        "device": "cpu",
        "data": {
            "sources": [f"synthfer:{name}?n={3 * batch}" for name in NAMES],
            "target": f"synthfer:wild?n={6 * batch}",
            "size": size,
            "source_batch": 5 * batch,
            "target_batch": batch,
        },
        "train": {"threads": 1},
        "report": {"tensorboard": False},
    }


def split(context, batch) -> dict[str, float]:
    """Return the seconds of one step's parts."""
    clock, model, plugins = Progress("bench", "bench", 0, 0, 100), context.model, context.plugins
    marks = [time.thread_time()]
    lap = lambda: marks.append(time.thread_time())  # noqa: E731
    encoded = {
        (v.side, v.name): plugins.encode(model, batch.side(v.side), v.name, clock, v.side, "train")
        for v in context.views
    }
    with torch.no_grad():
        pseudo = plugins.pseudo_label(model, batch, encoded, clock)
    lap()
    terms = list(plugins.align(model, batch, encoded, pseudo, clock))
    lap()
    losses = list(plugins.loss(model, batch, encoded, pseudo, clock))
    lap()
    features = [f for e in encoded.values() for f in e.features.values()]
    torch.autograd.grad(sum(t.weight * t.value for t in terms), features, retain_graph=True, allow_unused=True)
    lap()
    sum(t.weight * t.value for t in terms + losses).backward()
    lap()
    names = ("encoder_and_branches", "alignment", "other_losses", "alignment_backward", "backward")
    return {name: end - start for name, start, end in zip(names, marks, marks[1:], strict=False)}


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="samples a source, and of the target")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="demo")
    options = parser.parse_args()
    context = build_context(assemble(["la_cmfer"], [settings(options.size, options.batch)], preset=options.preset))
    torch.set_num_threads(1)
    batches, inputs, parts = iter(context.loader()), [], []
    for _ in range(options.rounds + 1):
        start = time.thread_time()
        batch = next(batches)
        inputs.append(time.thread_time() - start)
        parts.append(split(context, batch))
    result = {"input": statistics.median(inputs[1:])}
    result |= {name: statistics.median(p[name] for p in parts[1:]) for name in parts[0]}
    print(
        json.dumps(
            {"kernels": ops.kernels("cpu"), **vars(options), **{k: round(v * 1e3, 2) for k, v in result.items()}}
        )
    )


if __name__ == "__main__":
    main()
