"""A whole training step against the released code's form, and the demo's step against a loop written by hand.

`python -m bench.whole_step [--out FILE]`. Each form lives in a process of its own, as the allocator's settings hold for
a process, and takes its steps in turns with the others. CPU seconds of the process on one thread, wall seconds on two;
medians with quartiles, peak memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time

import torch

FORMS = {
    "paper": {
        "released": {},
        "system allocator": {"allocator": "system", "memory_format": "contiguous", "fused_optimiser": False},
        "float32": {"memory_format": "auto"},
        "float32, two forwards": {"memory_format": "auto", "joint_forward": False},
        "bf16": {"memory_format": "auto", "precision": "bf16-mixed"},
    },
    "demo": {
        "hand-written loop": {},
        "as the preset fixes it": {},
        "float32": {"memory_format": "auto", "joint_forward": True, "fused_optimiser": True},
        "bf16": {"memory_format": "auto", "joint_forward": True, "fused_optimiser": True, "precision": "bf16-mixed"},
    },
}
"""Preset -> form -> settings of `train`; the first form is what the others are compared with."""
CASES = (("paper", 64, 16), ("paper", 224, 4), ("demo", 64, 48))


def build(preset: str, size: int, batch: int, train: dict):
    """Return a run's parts."""
    from fercore.engine.memory_format import lay_out
    from fercore.engine.setup import build_context
    from fercore.hooks.assemble import assemble

    data = {"sources": [f"synthfer:studio?n={3 * batch + 5}"], "target": f"synthfer:wild?n={6 * batch}", "size": size}
    data |= {"source_batch": batch, "target_batch": batch, "workers": 0}
    layer = {"device": "cpu", "data": data, "model": {"weights": "none"}, "train": {"threads": 1, **train}}
    return lay_out(build_context(assemble(["la_cmfer"], [layer], preset=preset)))


def ours(preset: str, size: int, batch: int, train: dict):
    """Return a function that takes one step of fercore on a fixed batch."""
    from fercore.engine.phases import PhaseRunner
    from fercore.engine.step import train_step
    from fercore.records.step import Progress

    context = build(preset, size, batch, train)
    stage = context.stages[0]
    fused = context.config.train.fused_optimiser
    runner = PhaseRunner(context.fabric, stage.phases[0], stage, context.model, fused=fused)
    views, batch_ = context.views_of(stage), next(context.loader())
    context.model.train()
    clock = Progress(stage.name, runner.name, 0, 0, 100)

    def step():
        train_step(context.fabric, context.module, runner, batch_, views, clock)
        runner.scheduled.advance()

    return step


def by_hand(size: int, batch: int):
    """Return the demo network's step as one would write it in a script: the same losses, no hooks, no settings."""
    from fercore_la_cmfer.alignment import align_domains
    from fercore_la_cmfer.settings import LaCmferSettings
    from torch.nn import functional as F
    from torch.optim.lr_scheduler import CosineAnnealingLR

    from fercore.losses import mutual_consistency, vote, voted_cross_entropy

    context = build("demo", size, batch, {"allocator": "system"})
    model, data = context.model.train(), next(context.loader())
    settings = LaCmferSettings(**context.config.plugins["la_cmfer"])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = CosineAnnealingLR(optimiser, 250)

    def step():
        source, target = (model(side.images["weak"]) for side in (data.source, data.target))
        logits = list(target.logits.values())
        voted = vote(*(z.softmax(-1) for z in logits), settings.tau)
        aligned = align_domains(source, target, data.source, settings)
        loss = sum(F.cross_entropy(z, data.source.labels) for z in source.logits.values())
        loss = loss + 0.1 * (aligned.sample + settings.lambda_ * aligned.cluster)
        loss = loss + settings.beta * mutual_consistency(*logits)
        loss = loss + settings.gamma * voted_cross_entropy(logits, voted.labels, voted.weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()

    return step


def worker(preset: str, form: str, size: int, batch: int, threads: int) -> None:
    """Take a step for each line of standard input and print its seconds."""
    torch.set_num_threads(threads)
    if form == "released":
        from bench.released import Loop

        step = Loop(size, batch).step
    elif form == "hand-written loop":
        step = by_hand(size, batch)
    else:
        step = ours(preset, size, batch, FORMS[preset][form])
        torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in range(2):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            status = open("/proc/self/status").read()
            print(
                next(int(row.split()[1]) // 1024 for row in status.splitlines() if row.startswith("VmHWM")), flush=True
            )
            continue
        start = clock()
        step()
        print(clock() - start, flush=True)


def ask(process, line: str) -> float:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure(preset: str, size: int, batch: int, threads: int, rounds: int) -> dict:
    """Return each form's seconds and its speed as a multiple of the first form's, over rounds in turns."""
    processes, forms = {}, FORMS[preset]
    for form in forms:
        command = [sys.executable, "-m", "bench.whole_step", "--worker", preset, form]
        command += [str(size), str(batch), str(threads)]
        processes[form] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while processes[form].stdout.readline().strip() != "ready":
            if processes[form].poll() is not None:
                raise SystemExit(f"the form {form!r} ended before its first step")
    times = {form: [] for form in forms}
    first = next(iter(forms))
    for _ in range(rounds):
        for form, process in processes.items():
            times[form].append(ask(process, "step"))
    rows = {}
    for form, seconds in times.items():
        speeds = [theirs / own for theirs, own in zip(times[first], seconds, strict=True)]
        low, middle, high = statistics.quantiles(speeds, n=4)
        memory = ask(processes[form], "memory")
        processes[form].stdin.close()
        processes[form].wait()
        rows[form] = {
            "seconds": round(statistics.median(seconds), 4),
            "speed": round(middle, 3),
            "speed_quartiles": [round(low, 3), round(high, 3)],
            "peak_mb": memory,
        }
    return {"preset": preset, "size": size, "batch": batch, "threads": threads, "forms": rows}


def main() -> None:
    """Measure every case and print or write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.worker:
        preset, form, *numbers = options.worker
        return worker(preset, form, *(int(n) for n in numbers))
    cases = []
    for threads in options.threads:
        for case in CASES:
            cases.append(measure(*case, threads, options.rounds))
            print(json.dumps(cases[-1]), file=sys.stderr, flush=True)  # an hour of measuring survives what ends it
    text = json.dumps({"torch": torch.__version__, "machine": platform.machine(), "step": cases}, indent=2)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as handle:
            handle.write(text + "\n")
    print(text)
    return None


if __name__ == "__main__":
    main()
