"""Speed of the input pipeline: cached batches against PIL workers and batched transforms, side by side, in CPU time.

    python -m bench.input.speed [--n 600] [--rounds 5] [--out FILE]

All read the same SynthFER faces in files of the stated size (PNG up to 64 px, as FER2013's, JPEG above), augment them
the same way (`light`: flip, shift, brightness; `standard`: flip, colour, grey, turn, shift, scale) and make normalised
batches of 64:

pil     torch's DataLoader with two workers; PIL decodes, torchvision's transforms work image by image
v2      torchvision's transforms v2 on batches of decoded images in memory: one draw for a whole batch
kornia  kornia's augmentations on the same batches, a draw for each image (left out where kornia is not installed)
plain   fercore without a cache, two workers
memory  fercore's cache in memory, filled, no worker
disk    fercore's cache on disk, loaded again, no worker

Every round runs all of them in turn, each in a process of its own; CPU time is that of the process and its workers,
and the figure is the median of the rounds' ratios, so that other work on the machine hurts both sides alike.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.transforms import v2

from fercore.config import DataSettings
from fercore.data.batches.loader import StepDataset
from fercore.data.cache.stores import reserve
from fercore.data.domains.domain_set import read_domain
from fercore.data.images.views import Views
from fercore.data.spec import parse_spec
from fercore.records.plan import ViewRequest
from fercore.synthfer import SynthFER

BATCH = 64
MEAN = STD = (0.5, 0.5, 0.5)
SIDES = (
    "pil", "v2", *(["kornia"] if importlib.util.find_spec("kornia") else []), "plain", "memory", "disk",
)  # fmt: skip


def write_faces(root: Path, n: int, size: int) -> None:
    (root / "anger").mkdir(parents=True)
    for i, image in enumerate(SynthFER("wild", n=n, size=size).render(range(n))):
        path = root / "anger" / f"{i:05d}"
        if size <= 64:
            Image.fromarray(image).save(path.with_suffix(".png"))
        else:
            Image.fromarray(image).save(path.with_suffix(".jpg"), quality=92)


def transform(size: int, policy: str) -> T.Compose:
    affine = {
        "light": T.RandomAffine(0, translate=(0.05, 0.05)),
        "standard": T.RandomAffine(15, (0.05, 0.05), (0.9, 1.05)),
    }
    colour = {"light": [T.ColorJitter(0.1)], "standard": [T.ColorJitter(0.2, 0.2, 0.2), T.RandomGrayscale(0.2)]}
    return T.Compose([
        T.Resize((size, size)), T.RandomHorizontalFlip(), *colour[policy], affine[policy], T.ToTensor(),
        T.Normalize(MEAN, STD),
    ])  # fmt: skip


class PilFaces(Dataset):
    def __init__(self, root: Path, size: int, policy: str) -> None:
        self.paths = sorted((root / "anger").iterdir())
        self.transform = transform(size, policy)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def run_pil(root: Path, size: int, policy: str, epochs: int, cache: Path) -> int:
    torch.set_num_threads(1)
    loader = DataLoader(
        PilFaces(root, size, policy), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    return sum(len(batch) for _ in range(epochs) for batch in loader)


def batched(root: Path, size: int, epochs: int, transform: Callable[[torch.Tensor], torch.Tensor]) -> int:
    """Run a transform over shuffled batches of images that lie decoded in memory, uint8[N,3,S,S]."""
    torch.set_num_threads(1)
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((root / "anger").iterdir())]
    stored, seen = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), 0
    for epoch in range(epochs):
        order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(epoch))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            seen += len(transform(stored[rows]))
    return seen


def run_v2(root: Path, size: int, policy: str, epochs: int, cache: Path) -> int:
    affine = {"light": v2.RandomAffine(0, (0.05, 0.05)), "standard": v2.RandomAffine(15, (0.05, 0.05), (0.9, 1.05))}
    colour = {"light": [v2.ColorJitter(0.1)], "standard": [v2.ColorJitter(0.2, 0.2, 0.2), v2.RandomGrayscale(0.2)]}
    steps = [v2.RandomHorizontalFlip(), *colour[policy], affine[policy], v2.ToDtype(torch.float32, scale=True)]
    return batched(root, size, epochs, v2.Compose([*steps, v2.Normalize(MEAN, STD)]))


def run_kornia(root: Path, size: int, policy: str, epochs: int, cache: Path) -> int:
    from kornia import augmentation as K

    degrees, scale = {"light": (0.0, None), "standard": (15.0, (0.9, 1.05))}[policy]
    colour = {"light": [K.ColorJiggle(0.1, p=1.0)], "standard": [K.ColorJiggle(0.2, 0.2, 0.2, p=1.0),
              K.RandomGrayscale(p=0.2)]}  # fmt: skip
    steps = [K.RandomHorizontalFlip(), *colour[policy], K.RandomAffine(degrees, (0.05, 0.05), scale, p=1.0)]
    augment = K.AugmentationSequential(*steps, K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    return batched(root, size, epochs, lambda images: augment(images.float() / 255))


def fercore_side(kind: str) -> Callable[..., int]:
    def run(root: Path, size: int, policy: str, epochs: int, cache: Path) -> int:
        torch.set_num_threads(1)
        settings = DataSettings(
            size=size, augment=policy, cache="disk" if kind == "disk" else "memory", cache_dir=str(cache),
            cache_mb=0 if kind == "plain" else 4096,
        )  # fmt: skip
        table = read_domain(parse_spec(f"folder:{root}"))[0]
        views = [Views([ViewRequest(side, "weak", "weak")], side, seed=0, policy=policy, mean=MEAN, std=STD)
                 for side in ("source", "target")]  # fmt: skip
        reserve([table], settings)
        data = StepDataset((table, table), (views[0], views[1]), settings)
        steps = epochs * len(table) // (2 * BATCH)
        order = np.concatenate([np.random.default_rng(e).permutation(len(table)) for e in range(epochs)])
        plans = [
            (s, order[2 * s * BATCH : (2 * s + 1) * BATCH], order[(2 * s + 1) * BATCH : (2 * s + 2) * BATCH])
            for s in range(steps)
        ]
        if kind == "plain":
            batches = iter(
                DataLoader(data, sampler=plans, batch_size=None, num_workers=2, multiprocessing_context="fork")
            )
        else:
            batches = map(data.__getitem__, plans)
        return sum(len(side.labels) for batch in batches for side in (batch.source, batch.target))

    return run


RUNS = {"pil": run_pil, "v2": run_v2, "kornia": run_kornia}
RUNS |= {kind: fercore_side(kind) for kind in ("plain", "memory", "disk")}


def measured(kind: str, epochs: int, *arguments: object) -> tuple[float, float]:
    """Return CPU seconds and wall seconds an image of one run in a process of its own.

    The first epoch, in which processes start and a cache in memory fills, is taken off by a run of that epoch alone.
    """

    def job(count: int, pipe: multiprocessing.connection.Connection) -> None:
        begun = time.perf_counter()
        n = RUNS[kind](*arguments[:3], count, arguments[3])
        pipe.send((n, time.perf_counter() - begun))

    result = []
    for count in (1, 1 + epochs):
        ours, theirs = multiprocessing.Pipe()
        before = _cpu(resource.RUSAGE_CHILDREN)
        process = multiprocessing.get_context("fork").Process(target=job, args=(count, theirs))
        process.start()
        n, wall = ours.recv()
        process.join()
        result.append((n, _cpu(resource.RUSAGE_CHILDREN) - before, wall))
    (n1, cpu1, wall1), (n2, cpu2, wall2) = result
    return (cpu2 - cpu1) / (n2 - n1), (wall2 - wall1) / (n2 - n1)


def _cpu(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 112, 224])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            root, cache = Path(folder) / f"faces{size}", Path(folder) / "cache"
            write_faces(root, options.n, size)
            for policy in ("light", "standard"):
                RUNS["disk"](root, size, policy, 1, cache)
                found = [
                    {k: measured(k, options.epochs, root, size, policy, cache) for k in SIDES}
                    for _ in range(options.rounds)
                ]
                row = {"size": size, "augment": policy}
                for kind in SIDES:
                    row[f"{kind}_cpu_us"] = round(1e6 * statistics.median(f[kind][0] for f in found), 1)
                    row[f"{kind}_images_per_second"] = round(1 / statistics.median(f[kind][1] for f in found))
                    row[f"{kind}_speedup"] = round(statistics.median(f["pil"][0] / f[kind][0] for f in found), 2)
                rows.append(row)
                print(json.dumps(row), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"cores": os.cpu_count(), "n": options.n, "input": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
