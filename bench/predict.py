"""`fercore predict` beside a plain torch loop with the same network: python -m bench.predict RUN FOLDER [ROUNDS]

The loop is what people write: open, convert, resize, normalise, stack, forward, softmax, one thread of Python. Both
take turns on the same files; of each the best round counts, in images a second of wall time and of CPU time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fercore
from fercore.prediction.inputs import find_inputs
from fercore.prediction.predict import PredictSettings, predict
from fercore.prediction.predictor import Predictor
from fercore.prediction.video import Stride


def plain(predictor: Predictor, files: list[str]) -> np.ndarray:
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
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def main(run: str, folder: str, rounds: int = 5) -> None:
    predictor = fercore.load(run, device="cpu")
    files = [str(one) for one in find_inputs([folder], stride=Stride(), scaling=None).sources][:1000]
    how = PredictSettings(faces="whole")
    with tempfile.TemporaryDirectory() as home:
        count = iter(range(100))

        def ours() -> None:
            predict(predictor, files, out=Path(home) / f"{next(count)}.csv", settings=how)

        times = [(timed(ours), timed(lambda: plain(predictor, files))) for _ in range(rounds + 1)][1:]
    for at, kind in enumerate(("wall", "CPU")):
        one, other = (len(files) / min(pair[side][at] for pair in times) for side in (0, 1))
        print(f"{kind}: predict {one:.0f} images/s, plain loop {other:.0f}, ratio {one / other:.2f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
