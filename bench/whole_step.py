"""A whole training step against the released code's form: `python -m bench.whole_step [--out FILE]`.

Each form lives in a process of its own, as the allocator's settings hold for a process, and takes its steps in turns
with the others. CPU seconds of the process on one thread, wall seconds on two; medians with quartiles, peak memory.
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
    "released": {},
    "system allocator": {"allocator": "system", "memory_format": "contiguous", "fused_optimiser": False},
    "float32": {"memory_format": "auto"},
    "bf16": {"memory_format": "auto", "precision": "bf16-mixed"},
    "bf16 channels_last": {"memory_format": "channels_last", "precision": "bf16-mixed"},
}
CASES = ((64, 16), (224, 4))


def ours(size: int, batch: int, train: dict):
    """Return a function that takes one step of fercore on a fixed batch."""
    from fercore.engine.memory_format import lay_out
    from fercore.engine.phases import PhaseRunner
    from fercore.engine.setup import build_workshop
    from fercore.engine.step import train_step
    from fercore.hooks.assemble import assemble
    from fercore.types import Clock

    data = {"sources": [f"synthfer:studio?n={3 * batch + 5}"], "target": f"synthfer:wild?n={6 * batch}", "size": size}
    data |= {"source_batch": batch, "target_batch": batch, "workers": 0}
    layer = {"device": "cpu", "data": data, "model": {"weights": "none"}, "train": {"threads": 1, **train}}
    shop = lay_out(build_workshop(assemble(["la_cmfer"], [layer], preset="paper")))
    stage = shop.stages[0]
    fused = shop.config.train.fused_optimiser
    runner = PhaseRunner(shop.fabric, stage.phases[0], stage, shop.model, fused=fused)
    views, batch_ = shop.views_of(stage), next(shop.loader())
    shop.model.train()
    clock = Clock(stage.name, runner.name, 0, 0, 100)
    return lambda: train_step(shop.fabric, shop.plugins, shop.model, runner, batch_, views, clock, joint=shop.joint)


def worker(form: str, size: int, batch: int, threads: int) -> None:
    """Take a step for each line of standard input and print its seconds."""
    torch.set_num_threads(threads)
    if form == "released":
        from bench.released import Loop

        step = Loop(size, batch).step
    else:
        step = ours(size, batch, FORMS[form])
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


def measure(size: int, batch: int, threads: int, rounds: int) -> dict:
    """Return each form's seconds and its speed as a multiple of the released form's, over rounds in turns."""
    processes = {}
    for form in FORMS:
        command = [sys.executable, "-m", "bench.whole_step", "--worker", form, str(size), str(batch), str(threads)]
        processes[form] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        while processes[form].stdout.readline().strip() != "ready":
            if processes[form].poll() is not None:
                raise SystemExit(f"the form {form!r} ended before its first step")
    times = {form: [] for form in FORMS}
    for _ in range(rounds):
        for form, process in processes.items():
            times[form].append(ask(process, "step"))
    rows = {}
    for form, seconds in times.items():
        speeds = [released / own for released, own in zip(times["released"], seconds, strict=True)]
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
    return {"size": size, "batch": batch, "threads": threads, "forms": rows}


def main() -> None:
    """Measure every case and print or write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out")
    options = parser.parse_args()
    if options.worker:
        form, *numbers = options.worker
        return worker(form, *(int(n) for n in numbers))
    cases = [measure(*case, threads, options.rounds) for threads in (1, 2) for case in CASES]
    text = json.dumps({"torch": torch.__version__, "machine": platform.machine(), "step": cases}, indent=2)
    if options.out:
        with open(options.out, "w", encoding="utf-8") as handle:
            handle.write(text + "\n")
    print(text)
    return None


if __name__ == "__main__":
    main()
