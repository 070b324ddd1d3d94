"""Five methods against loops written by hand: `python -m bench.hand_loops [METHOD ...] [--rounds N] [--out FILE]`.

Both forms train the same network of preset demo on the same batch and views, and take their steps in turns: seconds of
the processor on one thread, median with quartiles, and the ratio of a pair of steps. A loop has what its method needs
and nothing else: no hooks, settings, checks, log or schedule. That both compute one thing is checked first: the losses
of their first step are equal.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

HERE = Path(__file__).parents[1]
SIZE, BATCH, CLASSES = 48, 36, 7


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


def dan(both, data, model, strength):
    (fx, zx), (fy, _) = both
    rows = torch.cat([fx, fy])
    n, b = len(rows), len(fx)
    distance = (rows[:, None] - rows[None]).square().sum(2)
    width = distance.detach().sum() / (n * n - n)
    kernel = sum(torch.exp(-distance / (width * 2.0**k)) for k in range(-2, 3))
    mmd = kernel[:b, :b].mean() + kernel[b:, b:].mean() - 2 * kernel[:b, b:].mean()
    return F.cross_entropy(zx, data.source.labels) + mmd


def adversarial(critic, rows, strength, weights=None):
    answer = critic(Reverse.apply(rows, strength)).squeeze(1)
    truth = torch.zeros_like(answer)
    truth[: len(rows) // 2] = 1
    values = F.binary_cross_entropy_with_logits(answer, truth, reduction="none")
    return values.mean() if weights is None else (weights * values).sum() / 2


def dann(both, data, model, strength):
    (fx, zx), (fy, _) = both
    told = adversarial(model.parts["dann/adversary"], torch.cat([fx, fy]), strength)
    return F.cross_entropy(zx, data.source.labels) + told


def cdan(both, data, model, strength):
    (fx, zx), (fy, zy) = both
    probs = torch.cat([zx, zy]).detach().softmax(1)
    rows = (probs[:, :, None] * torch.cat([fx, fy])[:, None]).flatten(1)
    sure = 1 + torch.exp((probs * probs.log()).sum(1))
    weights = torch.cat([half / half.sum() for half in sure.chunk(2)])
    told = adversarial(model.parts["cdan/adversary"], rows, strength, weights)
    return F.cross_entropy(zx, data.source.labels) + told


def mcc(both, data, model, strength):
    (_, zx), (_, zy) = both
    probs = (zy / 2.5).softmax(1)
    weight = 1 + torch.exp((probs * probs.log()).sum(1)).detach()
    confusion = (probs * weight[:, None] * len(weight) / weight.sum()).T @ probs
    confusion = confusion / confusion.sum(1)
    return F.cross_entropy(zx, data.source.labels) + (confusion.sum() - confusion.trace()) / CLASSES


def run(model, images):
    encoded = model(images)
    return encoded.features["main"], encoded.logits["main"]


def of_both(term):
    def loss(model, data, strength):
        views = [run(model, side.images["weak"]) for side in (data.source, data.target)]
        return term(views, data, model, strength)

    return loss


def fixmatch(model, data, strength):
    (_, zx), (_, strong) = run(model, data.source.images["weak"]), (None, None)
    with torch.no_grad():
        top, labels = run(model, data.target.images["weak"])[1].softmax(1).max(1)
    with without_statistics(model):
        _, strong = run(model, data.target.images["strong"])
    values = F.cross_entropy(strong, labels, reduction="none") * (top >= 0.95)
    return F.cross_entropy(zx, data.source.labels) + values.mean()


class without_statistics:
    """Batch normalisation goes by the batch and keeps nothing of it."""

    def __init__(self, model):
        self.norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]

    def __enter__(self):
        for norm in self.norms:
            norm.track_running_stats, norm.held = False, (norm.running_mean, norm.running_var)
            norm.running_mean = norm.running_var = None

    def __exit__(self, *_):
        for norm in self.norms:
            norm.track_running_stats = True
            norm.running_mean, norm.running_var = norm.held


LOOPS = {"dan": of_both(dan), "dann": of_both(dann), "cdan": of_both(cdan), "mcc": of_both(mcc), "fixmatch": fixmatch}


def build(name: str):
    """Return a run's parts, and its first batch."""
    from fercore.engine.memory_format import lay_out
    from fercore.engine.setup import build_context
    from fercore.hooks.assemble import assemble

    data = {"sources": [f"synthfer:studio?n={4 * BATCH}"], "target": f"synthfer:wild?n={6 * BATCH}", "size": SIZE}
    data |= {"source_batch": BATCH, "target_batch": BATCH, "workers": 0, "augment": "light"}
    layer = {"device": "cpu", "data": data, "train": {"threads": 1, "ema": None, "steps": 1000}}
    context = lay_out(build_context(assemble([name], [layer], preset="demo")))
    return context, next(context.loader())


def forms(name: str):
    """Return two functions that take a step and return its loss: the engine's, and a loop's with an equal network."""
    from fercore.engine.phases import PhaseRunner
    from fercore.engine.step import train_step
    from fercore.records.step import Progress

    context, data = build(name)
    stage, fused = context.stages[0], context.config.train.fused_optimiser
    runner = PhaseRunner(context.fabric, stage.phases[0], stage, context.model, fused=fused)
    views, model = context.views_of(stage), context.model.train()
    copied, optim = copy.deepcopy(model), context.config.optim
    optimiser = torch.optim.AdamW(copied.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=fused)
    done = {"engine": 0, "loop": 0}

    def engine() -> float:
        clock = Progress(stage.name, runner.name, 0, done["engine"], stage.steps)
        report = train_step(context.fabric, context.module, runner, data, views, clock)
        runner.scheduled.advance()
        done["engine"] += 1
        return report.total

    def loop() -> float:
        strength = 2 / (1 + math.exp(-10 * done["loop"] / stage.steps)) - 1
        optimiser.zero_grad()
        loss = LOOPS[name](copied, data, strength)
        loss.backward()
        optimiser.step()
        done["loop"] += 1
        return float(loss.detach())

    return engine, loop


def measure(name: str, rounds: int) -> dict:
    """Take steps in turns and return what each costs."""
    engine, loop = forms(name)
    first = engine(), loop()
    if not math.isclose(*first, rel_tol=1e-5):
        raise SystemExit(f"{name}: the losses of the first step differ: {first}")
    times: dict[str, list[float]] = {"engine": [], "loop": []}
    for number in range(rounds + 2):
        for form, step in (("engine", engine), ("loop", loop)):
            begun = time.thread_time()
            step()
            if number >= 2:
                times[form].append(time.thread_time() - begun)
    ratios = [a / b for a, b in zip(times["engine"], times["loop"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "engine_ms": round(1000 * statistics.median(times["engine"]), 1),
        "loop_ms": round(1000 * statistics.median(times["loop"]), 1),
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name in given.names or LOOPS:
        rows[name] = measure(name, given.rounds)
        print(name, rows[name], flush=True)
    about = {"machine": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    about |= {"size": SIZE, "batch": BATCH, "rounds": given.rounds}
    if given.out:
        given.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
