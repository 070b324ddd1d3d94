"""`fercore predict` beside a plain torch loop with the same network: python -m bench.predict [--run RUN] [--out FILE]

The loop is what people write: open, convert, resize, normalise, stack, forward, softmax, one thread of Python. Both
take turns on the same files; of each the best round counts, in images a second of wall time and of CPU time. The
files are generated faces, of 64 pixels and enlarged to photographs of 3,000. `memory_mb` is the peak of a process that
predicts on a video of 10 to 10,000 frames: a 3-hour one at 25 frames a second has 270,000. A batch is 64 frames:
with fewer the network needs less. Without --run a model of a few steps is trained first; what it says does not matter
here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import fercore
from fercore.prediction.annotate import VideoWriter
from fercore.prediction.predict import PredictSettings, predict
from fercore.prediction.predictor import Predictor
from fercore.synthfer import SynthFER

CASES = {"64 px": (64, 1000), "3000 px": (3000, 40)}
"""Name -> side of the images, and how many."""
FRAMES = (10, 64, 300, 1000, 3000, 10_000)
PEAK = """
import sys, fercore
fercore.predict(sys.argv[1], sys.argv[2], faces="whole", device="cpu", workers=2, out=sys.argv[2] + ".csv")
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024)
"""


def plain(predictor: Predictor, files: list[str]) -> np.ndarray:
    """Return what the loop says of files, float32[N,K]."""
    images, batch = predictor.record.images, predictor.record.evaluation.batch
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (images.mean, images.std))
    probs = []
    with torch.no_grad():
        for start in range(0, len(files), batch):
            pixels = []
            for path in files[start : start + batch]:
                picture = Image.open(path).convert("RGB").resize((images.size, images.size), Image.Resampling.BILINEAR)
                pixels.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
            x = (torch.stack(pixels).float() / 255 - mean) / std
            (logits,) = predictor._model(x.to(predictor.device)).logits.values()
            probs.append(logits.softmax(1).cpu().numpy())
    return np.concatenate(probs)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return seconds of wall time and of CPU time of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def draw(folder: Path, side: int, n: int) -> list[str]:
    """Write n faces as JPEG files of a side; return their names."""
    folder.mkdir()
    faces = SynthFER("wild", n=min(n, 100), seed=1)
    drawn = [Image.fromarray(np.asarray(faces[i].image)) for i in range(len(faces))]
    files = [folder / f"{k:04}.jpg" for k in range(n)]
    for k, path in enumerate(files):
        drawn[k % len(drawn)].resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return [str(path) for path in files]


def speed(predictor: Predictor, files: list[str], rounds: int, home: Path) -> dict[str, Any]:
    """Return images a second of both, and the ratio, by kind of time."""
    count = iter(range(100))

    def ours() -> None:
        predict(predictor, files, out=home / f"{next(count)}.csv", settings=PredictSettings(faces="whole", workers=2))

    # The first round warms up.
    times = [(timed(ours), timed(lambda: plain(predictor, files))) for _ in range(rounds + 1)][1:]
    rates = {}
    for at, kind in enumerate(("wall", "cpu")):
        one, other = (len(files) / min(pair[side][at] for pair in times) for side in (0, 1))
        rates[kind] = {"predict": round(one, 1), "plain": round(other, 1), "ratio": round(one / other, 3)}
    return {"images": len(files), "rounds": rounds, **rates}


def memory(run: str, home: Path, frames: int) -> float:
    """Return the peak of a process that predicts on a video of so many frames, MB."""
    path = home / f"{frames}.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    with VideoWriter(path, 25.0) as video:
        for k in range(frames):
            video.write(noise[k % len(noise)])
    words = [sys.executable, "-c", PEAK, run, str(path)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and, with --out, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", help="a run folder; otherwise a small one is trained")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        run = given.run or str(_trained(home / "run"))
        predictor = fercore.load(run, device="cpu")
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": 1}
        record: dict[str, Any] = {**about, "torch": torch.__version__, "size": predictor.record.images.size}
        record["load_average"] = round(os.getloadavg()[0], 1)
        for name, (side, n) in CASES.items():
            record[name] = speed(predictor, draw(home / name, side, n), given.rounds, home / name)
            print(name, json.dumps(record[name]), flush=True)
        record["memory_mb"] = {str(frames): round(memory(run, home, frames), 1) for frames in FRAMES}
        print("memory", json.dumps(record["memory_mb"]))
    if given.out is not None:
        given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _trained(folder: Path) -> Path:
    data = {"source": "synthfer:studio?n=140", "target": "synthfer:wild?n=140&seed=1"}
    settings = {"train.steps": 2, "train.threads": 1, "report.tensorboard": False}
    return fercore.train("source_only", **data, preset="demo", set=settings, device="cpu", out=folder).path


if __name__ == "__main__":
    main()
