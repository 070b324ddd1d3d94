"""What it costs to start: `python -m bench.start [--against FOLDER] [--rounds 7] [--out FILE]`.

CPU seconds of a new process and those it forks, one thread. Every round runs all rows in turn, and with --against
(another checkout, e.g. of an earlier commit) both sides one after the other; medians with lowest and highest, and the
median of the rounds' ratios, so that other work on the machine hurts both sides alike. The rows "first step" are
`fercore run` on files of 48x48 pixels in class folders, half of them the target, until training begins; cold = no run
before, warm = after one on the same files. "floor" is what a training step imports of others: torch with its optimisers
(which import torch's compiler), Lightning Fabric and timm.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench.input.start import write_images

HERE = Path(__file__).parents[1]
CLI = "from fercore.cli import main; main()"
UNTIL_TRAINING = (
    "import os; from fercore import console; console.ConsoleObserver.begin = lambda *_: os._exit(0); " + CLI
)
ROWS = {
    "torch": ["import torch"],
    "floor": ["import torch._dynamo, lightning_fabric, timm"],
    "fercore": ["import fercore"],
    "engine": ["import fercore.engine.run"],
    "help": [CLI, "--help"],
    "doctor": [CLI, "doctor"],
    "wrong --set": [CLI, "run", "-p", "source_only", "--set", "train.steps"],
    "wrong setting": [CLI, "run", "-p", "source_only", "--set", "train.stepz=3"],
}
CACHES = ("memory", "disk")


def cpu(command: list[str], checkout: Path, folder: Path) -> float:
    """Return the CPU seconds of `python -c CODE ARGUMENTS` with the code of a checkout."""
    path = os.pathsep.join(map(str, [checkout, *checkout.glob("plugins/*/")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", *command], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != (2 if "--set" in command and "--out" not in command else 0):
        raise SystemExit(f"{command}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_step(images: Path, cache: str) -> list[str]:
    """Return the command of a run that ends when training begins."""
    data = ["--source", f"folder:{images}/source", "--target", f"folder:{images}/target", "--set", "data.size=48"]
    settings = ["--preset", "demo", "--set", f"data.cache={cache}", "--set", "data.cache_dir=cache", "--device", "cpu"]
    return [UNTIL_TRAINING, "run", "-p", "source_only", *data, *settings, "--out", "run"]


def round_of(checkout: Path, images: Path, scratch: Path) -> dict[str, float]:
    """Return row -> CPU seconds, every row once."""
    folder = scratch / "work"
    folder.mkdir()
    found = {name: cpu(command, checkout, folder) for name, command in ROWS.items()}
    for kind in CACHES:
        for state in ("cold", "warm"):
            found[f"first step, {kind}, {state}"] = cpu(first_step(images, kind), checkout, folder)
            shutil.rmtree(folder / "run")
        shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure every row and print or write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout, its kernels compiled")
    parser.add_argument("--label", default="before", help="what the JSON calls it")
    parser.add_argument("--n", type=int, default=30_000, help="files of the rows 'first step'")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sides = {"now": HERE} | ({options.label: options.against.resolve()} if options.against else {})
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        for part in ("source", "target"):
            write_images(images / part, options.n // 2, 48)
        rounds = []
        for number in range(options.rounds):
            rounds.append({side: round_of(path, images, Path(folder)) for side, path in sides.items()})
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    rows = []
    for name in rounds[0]["now"]:
        row: dict[str, object] = {"command": name}
        for side in sides:
            seconds = [each[side][name] for each in rounds]
            row[side] = round(statistics.median(seconds), 2)
            row |= {f"{side}_low": round(min(seconds), 2), f"{side}_high": round(max(seconds), 2)}
            row[f"{side}_of_torch"] = round(statistics.median(e[side][name] / e[side]["torch"] for e in rounds), 2)
        if options.against:
            ratios = [each["now"][name] / each[options.label][name] for each in rounds]
            row["ratio"] = round(statistics.median(ratios), 3)
        rows.append(row)
        print(json.dumps(row))
    result = {"torch": torch.__version__, "cores": os.cpu_count(), "files": options.n, "rounds": options.rounds}
    if options.out:
        options.out.write_text(json.dumps({**result, "start": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
