"""How long a large dataset takes to start, and whether the loader's memory grows.

    python -m bench.input.start [--n 200000] [--epochs 3] [--cache memory|disk]

Writes n grey PNG files of 24x24 pixels, opens them as a source (every file is decoded and hashed once), and draws
batches for some epochs. Printed: wall and CPU seconds to the first batch, of this process and of those it forked, the
peak of the resident memory, and the resident memory after each epoch. Run it twice on a folder that stays (--folder) to
see the second start.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from fercore.config import DataSettings
from fercore.data import StepLoader, load_domains
from fercore.data.labels import CANONICAL
from fercore.records.plan import ViewRequest

HALF = (0.5, 0.5, 0.5)


def write_images(root: Path, n: int, size: int = 24) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, size, size), dtype=np.uint8)
    for name in CANONICAL[:7]:
        (root / name).mkdir(parents=True)
    for i in range(n):
        image = noise[i % 64].copy()
        image[0, :4] = np.frombuffer(i.to_bytes(4, "little"), dtype=np.uint8)
        Image.fromarray(image).save(root / CANONICAL[i % 7] / f"{i:07d}.png", compress_level=0)


def resident() -> int:
    return psutil.Process().memory_info().rss // 2**20


def cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def start(root: Path, epochs: int, cache: str, folder: Path) -> dict[str, object]:
    settings = DataSettings(
        sources=(f"folder:{root}",), target="synthfer:web?n=200", size=24, source_batch=128, target_batch=32,
        augment="light", cache=cache, cache_dir=str(folder),
    )  # fmt: skip
    begun, before = time.perf_counter(), (cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN))
    domains = load_domains(settings.task(0), settings)
    views = [ViewRequest(side, "weak", "weak") for side in ("source", "target")]
    loader = StepLoader(domains, views, settings, seed=0, mean=HALF, std=HALF)
    next(loader)
    result: dict[str, object] = {
        "cache": cache,
        "images": len(domains.sources[0]),
        "start_seconds": round(time.perf_counter() - begun, 1),
        "cpu_seconds": round(cpu(resource.RUSAGE_SELF) - before[0], 1),
        "forked_cpu_seconds": round(cpu(resource.RUSAGE_CHILDREN) - before[1], 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    after = []
    for _ in range(epochs):
        for _ in range(loader.steps_per_epoch):
            next(loader)
        after.append(resident())
    return {**result, "mb_after_epochs": after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cache", choices=("memory", "disk"), default="memory")
    parser.add_argument("--folder", type=Path, help="keep images and cache here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "images").exists():
            write_images(folder / "images", options.n)
        print(json.dumps(start(folder / "images", options.epochs, options.cache, folder / "cache")))


if __name__ == "__main__":
    main()
