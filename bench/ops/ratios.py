"""Ratios of the ops to the floor measured in the same run: `python -m bench.ops.ratios [--full] [--device cuda]`.

The floor is two matrix products (X X^T and A X) a group. Without --full the largest sizes, the released form and
torch.compile are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from bench.ops import forms
from bench.ops.measure import interleaved
from fercore.ops import build, dispatch, reference
from fercore.ops.mpc import mpc_consistency

RESULTS = Path(__file__).parent.parent / "results"


def small(device: str, full: bool) -> list[dict]:
    """One branch's sample and class level, D=1024, K=7, per group in calls of 1 and 10 groups."""
    rows = []
    for n in (32, 64, 128):
        for groups, targets in ((10, 10), (10, 2), (1, 1)):
            s = forms.step(n, groups=groups, targets=targets, device=device)
            candidates = {"floor": forms.floor, "fused": forms.fused, "plain_torch": forms.plain_torch}
            times = interleaved({k: partial(f, s) for k, f in candidates.items()}, max(5, 640 // n), device)
            rows.append({"rows": n, "groups": groups, "targets": targets, **_ratios(times)})
        if full:  # apart: its hundreds of MB would cool the caches of the others
            times = interleaved({k: partial(getattr(forms, k), s) for k in ("floor", "released")}, 3, device)
            rows[-1] |= {"released_ratio": _ratios(times)["released_ratio"]}
    return rows


def large(device: str, full: bool) -> list[dict]:
    """The sample level of two sets of N rows, D=512."""
    rows = []
    for n in (512, 2048, 8192) if full else (512, 2048):
        s = forms.step(n, width=512, groups=1, targets=1, classes=0, device=device)
        candidates = {"floor": forms.floor, "fused": forms.fused, "fused_forward": forms.fused_forward}
        times = interleaved({k: partial(f, s) for k, f in candidates.items()}, 7 if n < 8192 else 2, device)
        rows.append({"rows": n, **_ratios(times), "fused_peak_mb": peak_of("fused", n, device)})
    if full:
        rows.append({"rows": 32768, "fused_forward_peak_mb": peak_of("fused_forward", 32768, device)})
    return rows


def peak_of(name: str, rows: int, device: str) -> float:
    """Return by how many MB a call raises the memory of a fresh process."""
    command = [sys.executable, "-m", "bench.ops.measure", name, str(rows), device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def mpc(device: str, full: bool) -> list[dict]:
    """Ten groups of [128,7]; ratios are to the fused op here."""
    views = forms.mpc_views(device=device)
    functions = {
        "fused": lambda p, q, offdiag: mpc_consistency(p, q),
        "eager_batched": reference.mpc,
        "eager_loop": forms.mpc_released,
    }
    if full:
        functions["compiled"] = torch.compile(reference.mpc)
    times = interleaved({k: partial(forms.mpc_with(f), views) for k, f in functions.items()}, 100, device)
    return [{**_ratios({"floor": times["fused"], **times})}]


def _ratios(times: dict[str, float]) -> dict[str, float]:
    base = times.pop("floor")
    ratios = {f"{name}_ratio": round(seconds / base, 3) for name, seconds in times.items()}
    return {"base_us": round(base * 1e6, 1), **ratios}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": options.threads,
        "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu",
        "kernels": dispatch.kernels(options.device),
        "vector_level": (build.report()["cpu"] or {}).get("vector_level"),
    }
    for measure in (small, large, mpc):
        result[measure.__name__] = rows = measure(options.device, options.full)
        for row in rows:
            print(measure.__name__, json.dumps(row), flush=True)
    out = options.out or RESULTS / f"ops_{options.device}_{options.threads}t.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out)


if __name__ == "__main__":
    main()
