"""One script for any machine with an NVIDIA GPU: `python -m bench.gpu [--out FILE]`.

Builds the CUDA library for the GPU at hand, runs the CUDA tests, the same under compute-sanitizer, counts the launches
of one LA-CMFER step's alignment, measures it against plain torch eagerly and under CUDA graphs, and writes one JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
CUDA_TESTS = [sys.executable, "-m", "pytest", "tests/ops/test_cuda.py", "-q", "-m", "cuda", "-p", "no:cacheprovider"]


def run(command: list[str], **environment: str) -> dict[str, object]:
    """Run a command; return its exit status and last lines."""
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return {"status": done.returncode, "tail": (done.stdout + done.stderr).splitlines()[-15:]}


def checks() -> dict[str, object]:
    """Build, test, and test under compute-sanitizer where it is installed."""
    result: dict[str, object] = {"build": run([sys.executable, "-m", "fercore.ops", "cpu", "cuda"])}
    result["tests"] = run(CUDA_TESTS, FERCORE_REQUIRE_EXT="1")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        return {**result, "sanitizer": "not installed"}
    few = ["-k", "plain or one_group or single_rows or streamed or mpc"]
    for tool in ("memcheck", "racecheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *CUDA_TESTS, *few]
        result[tool] = run(command, FERCORE_REQUIRE_EXT="1", PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    return result


def launches(function) -> dict[str, object]:
    """Return the kernels of one call and their device time in microseconds."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    kernels = [e for e in profiler.events() if e.device_type.name == "CUDA"]
    names = [e.name for e in kernels if not e.name.startswith("Mem")]
    return {"kernels": len(names), "names": names[:40], "device_us": sum(e.device_time for e in kernels)}


def median_us(function, rounds: int = 50) -> float:
    """Return the median time of a call on the device, by CUDA events."""
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return sorted(times)[rounds // 2]


def graphed(function):
    """Return a call that replays the function from a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def step_times() -> dict[str, object]:
    """One step's alignment, forward and backward: 5 sources x 2 branches, 128 rows, D=1024, the target shared."""
    from bench.ops import forms

    s = forms.step(128, groups=10, targets=2, device="cuda")
    result: dict[str, object] = {}
    for name, form in (("fused", forms.fused), ("plain_torch", forms.plain_torch), ("floor", forms.floor)):
        call = lambda form=form: form(s)  # noqa: E731
        result[name] = {"eager_us": median_us(call), "graph_us": median_us(graphed(call)), **launches(call)}
    return result


def main() -> int:
    """Run everything and write the JSON; exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "ops_gpu.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no NVIDIA GPU here: nothing was run")
        return 2
    major, minor = torch.cuda.get_device_capability()
    os.environ.setdefault("FERCORE_CUDA_ARCHS", f"{major}{minor}")
    result: dict[str, object] = {
        "device": torch.cuda.get_device_name(),
        "capability": f"{major}.{minor}",
        "torch": torch.__version__,
        "archs": os.environ["FERCORE_CUDA_ARCHS"],
        "checks": checks(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        result["step"] = step_times()
    finally:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    statuses = [c["status"] for c in result["checks"].values() if isinstance(c, dict)]  # type: ignore[attr-defined]
    return 1 if any(statuses) else 0


if __name__ == "__main__":
    raise SystemExit(main())
