"""A program that kills runs: `python kills.py FOLDER METHODS EVENTS RANDOM`; prints a line of JSON for each kill.

A run is killed at its n-th file event (a file loaded for writing; a name made, changed or removed), or after a random
time, and goes on from what it left. EVENTS is how many of the file events, evenly spread; "all" for each of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import lightning_fabric  # noqa: F401 - here once, and not in every process
import numpy as np
import sklearn.metrics  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

# As a script it sees neither the fixtures nor the root that they import from.
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import TINY

from fercore.engine.initial import with_initial
from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks.assemble import assemble
from fercore.runs import checkpoint
from fercore.runs.folder import RunFolder

MORE: dict[str, Any] = {
    "data": {
        "sources": ["synthfer:studio?n=28&size=32", "synthfer:web?n=28&seed=1&size=32"],
        "target": "synthfer:wild?n=56&seed=2&size=32",
        "source_batch": 14,
        "target_batch": 7,
    },
    "train": {"checkpoint_every": 2, "eval_every": 3, "ema": 0.9},
    "select": {"oracle": True},
    "report": {"features": True, "distances": True, "tensorboard": True},
}
NAMES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
WITHOUT_SOURCE = {"shot_pp", "aad", "rotta", "tent"}
GIVEN = "given"
"""Folder of the trained model that methods without a source adapt."""
PACE = {"train_seconds", "seconds_per_step", "train_images_per_second", "peak_memory_mb", "images_per_second"}


def go_on(folder: Path, methods: list[str]) -> None:
    """Start a run, or go on with it, as the command line does."""
    there = RunFolder(folder)
    if not (there.begun and there.finished):
        layers: list[dict[str, Any]] = [TINY, MORE]
        if folder.name == GIVEN:  # of fewer steps, it tells no two classes apart
            layers.append({"train": {"steps": 40, "checkpoint_every": 40, "eval_every": 0}})
        if methods[0] in WITHOUT_SOURCE:
            alone = {"data": {"sources": []}, "report": {"distances": False}}
            layers = with_initial([*layers, alone, {"model": {"init": str(folder.parent / GIVEN)}}])
        context = build_context(assemble(methods, layers, preset="demo"))
        run(context, folder, Observer(), resume=there.begun)


def attempt(folder: Path, methods: list[str], *, event: int = 0, delay: float | None = None) -> tuple[int, int]:
    """Let a process go on; return its exit status and the file events it came to."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            watch(writer, event, str(folder))
            go_on(folder, methods)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writer)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader, "rb") as file:
        return status, len(file.read())


def watch(writer: int, last: int, root: str) -> None:
    """Write a byte to a pipe at each file event, and die at the `last`."""
    seen = 0

    def hear(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        loaded = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if event in NAMES or (loaded and str(details[0]).startswith(root.rpartition("/")[0])):
            seen += 1
            os.write(writer, b".")
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def bits(folder: Path, methods: list[str]) -> dict[str, Any]:
    """Return all that must be the same however often a run was killed."""
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    arrays = np.load(folder / "features.npz")
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "checkpoint": newest.name,
        "weights": hashlib.sha256((newest / checkpoint.TENSORS).read_bytes()).hexdigest(),
        "predictions": (folder / "predictions.csv").read_text(),
        "features": {name: hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in sorted(arrays)},
        "distances": json.loads((folder / "distances.json").read_text()) if methods[0] not in WITHOUT_SOURCE else None,
        "online": (folder / "online.csv").read_text() if (folder / "online.csv").exists() else None,
        "result": without_pace(json.loads((folder / "result.json").read_text())),
        "log": [without_pace(line) for line in log],
        "hidden": sorted(str(path) for path in folder.parent.rglob(".*")),
    }


def without_pace(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in PACE}


def main(place: Path, methods: list[str], wanted: str, times: int) -> None:
    folder = place / "run"
    if methods[0] in WITHOUT_SOURCE:
        attempt(place / GIVEN, ["source_only"])
    attempt(folder, methods)  # what is made once, such as compiled code, is no event of the others
    shutil.rmtree(folder)
    started = time.perf_counter()
    status, events = attempt(folder, methods)
    seconds = time.perf_counter() - started
    assert status == 0
    expected = bits(folder, methods)
    step = 1 if wanted == "all" else max(1, events // int(wanted))
    draw = random.Random(0)
    kills: list[dict[str, Any]] = [{"event": n} for n in range(step, events + 1, step)]
    kills += [{"delay": draw.uniform(0, seconds)} for _ in range(times)]
    for kill in kills:
        shutil.rmtree(folder, ignore_errors=True)
        killed, _ = attempt(folder, methods, **kill)
        left = sorted(path.name for path in (folder / "checkpoints").glob("*"))
        ended, _ = attempt(folder, methods)
        found = bits(folder, methods) if ended == 0 else {}
        differing = [name for name in expected if found.get(name) != expected[name]]
        print(json.dumps({**kill, "killed": killed, "left": left, "ended": ended, "differing": differing}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split("+"), sys.argv[3], int(sys.argv[4]))
