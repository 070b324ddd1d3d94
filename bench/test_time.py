"""Test-time methods on streams of generated faces: what they answer, and what they cost.

    python -m bench.test_time scores MODEL... [--out FILE] [--methods NAME...] [--domains NAME...] [--n 768]
    python -m bench.test_time cost MODEL [--out FILE] [--frames 512]
    python -m bench.test_time long MODEL [--out FILE] [--method tent] [--frames 10000]

MODEL are finished runs on `studio`, `posed` and `web`, one for each seed. `scores` adds to FILE what is not in it
yet, so that it may be stopped. A method runs with its alarm off, and the initial model beside it on every image: what
the alarm would have done follows from the answers of both, as `fercore.engine.online` does it.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

METHODS = ("adabn", "tent", "eata", "sar", "delta", "rotta", "note", "lame", "t3a", "cotta", "memo")
SETTINGS: dict[str, dict[str, Any]] = {"cotta": {"cotta.views": 8}, "memo": {"memo.views": 8}}
"""Fewer views than published, for what they cost."""
DOMAINS = ("wild", "dark", "nir", "thermal")
ORDERS = ("shuffled", "correlated")
BATCH = 64


@lru_cache
def faces(domain: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels uint8[n,3,64,64] of a generated domain and its labels in the run's classes int64[n]."""
    from fercore.data.domains.domain_set import read_domain
    from fercore.data.images.resize import fitted
    from fercore.data.spec import parse_spec

    kept = Path(f"/tmp/fercore_bench_{domain}_{n}.npz")
    if not kept.is_file():
        table, _ = read_domain(parse_spec(f"synthfer:{domain}?n={n}&seed=77"))
        pixels = np.stack([fitted(image, 64, "stretch") for image in table.read_many(range(n))])
        np.savez(kept, pixels=pixels, labels=table.labels)
    with np.load(kept) as arrays:
        return arrays["pixels"], arrays["labels"]


def answers(model: str, name: str | None, pixels: np.ndarray, **settings: Any) -> np.ndarray:
    """Return what a method, or the model as it is, answers to a stream: int64[n]."""
    import fercore
    from fercore.prediction.adapting import AdaptSettings, load_adapting

    if name is None:
        predictor: Any = fercore.load(model, device="cpu")
    else:
        how = {"stream.alarm": "off", **SETTINGS.get(name, {}), **settings}
        predictor = load_adapting(model, AdaptSettings(name, how), device="cpu")
    parts = [predictor.answer(pixels[start : start + BATCH]).probs.argmax(1) for start in range(0, len(pixels), BATCH)]
    return np.concatenate(parts)


def with_alarm(initial: np.ndarray, adapted: np.ndarray, classes: int) -> tuple[np.ndarray, str]:
    """Return the answers that a stream with the alarm would have given, and what sounded."""
    from fercore.config import StreamSettings
    from fercore.evaluation.collapse import Watch

    watch, every = Watch(classes), StreamSettings().watch_every
    for start in range(0, len(adapted), BATCH):
        end = min(start + BATCH, len(adapted))
        seen = np.arange(start + -start % every, end, every)
        watch.add(*(torch.eye(classes)[torch.from_numpy(labels[seen])] for labels in (initial, adapted)))
        if reason := watch.alarm():
            return np.concatenate([adapted[:end], initial[end:]]), f"after {end} images: {reason}"
    return adapted, ""


def shares(given: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return accuracy and balanced accuracy."""
    right = given == truth
    recalls = [right[truth == k].mean() for k in np.unique(truth)]
    return {"accuracy": round(float(right.mean()), 4), "balanced_accuracy": round(float(np.mean(recalls)), 4)}


def scores(args: argparse.Namespace) -> None:
    """Fill in the table, and print it."""
    from fercore.config import StreamSettings
    from fercore.data.batches.sampling import stream_order

    record = json.loads(args.out.read_text()) if args.out.is_file() else {**machine(), "n": args.n, "rows": []}
    rows = record["rows"]
    there = {(row["seed"], row["method"], row["domain"], row["order"]) for row in rows}
    for seed, model in enumerate(args.models):
        for domain in args.domains:
            pixels, labels = faces(domain, args.n)
            classes = int(labels.max()) + 1
            for order in ORDERS:
                wanted = [name for name in args.methods if (seed, name, domain, order) not in there]
                if not wanted:
                    continue
                how = StreamSettings(order=order)
                at = stream_order(labels, np.arange(len(labels)), how, seed)
                initial, truth = answers(model, None, pixels[at]), labels[at]
                for name in wanted:
                    adapted = answers(model, name, pixels[at])
                    guarded, reason = with_alarm(initial, adapted, classes)
                    row = {
                        "seed": seed, "method": name, "domain": domain, "order": order, "alarm": reason,
                        "initial": shares(initial, truth), "adapted": shares(adapted, truth),
                        "with_alarm": shares(guarded, truth),
                    }  # fmt: skip
                    rows.append(row)
                    args.out.write_text(json.dumps(record, indent=1) + "\n")
                    if args.keep:
                        args.keep.mkdir(exist_ok=True)
                        np.savez(args.keep / f"{seed}_{name}_{domain}_{order}.npz", i=initial, a=adapted, t=truth)
                    print(line(row), flush=True)
    print("\n".join(table(rows)))


def line(row: dict[str, Any]) -> str:
    """Return a run in a line."""
    texts = [f"{100 * row[part]['balanced_accuracy']:.1f}" for part in ("initial", "adapted", "with_alarm")]
    return f"{row['seed']} {row['method']:8} {row['domain']:8} {row['order']:10} {' '.join(texts)} {row['alarm']}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: balanced accuracy (accuracy) with the alarm, the mean over seeds, in per cent.

    "!n" = the alarm sounded in n of the streams; in brackets [] what the answers without it come to.
    """
    streams = [(order, domain) for order in ORDERS for domain in DOMAINS]
    lines = ["| method | " + " | ".join(f"{domain}, {order}" for order, domain in streams) + " |"]
    lines.append("|---" * (len(streams) + 1) + "|")
    for name in ("initial", *METHODS):
        texts = []
        for order, domain in streams:
            same = [row for row in rows if (row["order"], row["domain"]) == (order, domain)]
            own = {row["seed"]: row for row in same if name in ("initial", row["method"])}.values()
            texts.append(cell(list(own), "initial" if name == "initial" else "with_alarm"))
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return lines


def cell(rows: list[dict[str, Any]], part: str) -> str:
    """Return one cell of the table."""
    if not rows:
        return ""
    balanced, plain = (
        100 * statistics.mean(row[part][key] for row in rows) for key in ("balanced_accuracy", "accuracy")
    )
    alarms = sum(bool(row["alarm"]) for row in rows) if part != "initial" else 0
    without = 100 * statistics.mean(row["adapted"]["balanced_accuracy"] for row in rows)
    return f"{balanced:.1f} ({plain:.1f})" + (f" !{alarms} [{without:.1f}]" if alarms else "")


def cost(args: argparse.Namespace) -> None:
    """Time an image of every method against plain prediction, in turns, and print it; batches of 64 on one thread."""
    import fercore
    from fercore.prediction.adapting import AdaptSettings, load_adapting

    torch.set_num_threads(1)
    pixels, _ = faces("wild", 256)
    predictors: dict[str, Any] = {"plain": fercore.load(args.model, device="cpu")}
    for name in METHODS:
        how = {"stream.alarm": "off", **SETTINGS.get(name, {})}
        predictors[name] = load_adapting(args.model, AdaptSettings(name, how), device="cpu")
    predictors["tent, alarm"] = load_adapting(args.model, AdaptSettings("tent", {}), device="cpu")
    times: dict[str, list[float]] = {name: [] for name in predictors}
    for number in range(args.rounds + 1):
        for name, predictor in predictors.items():
            if name == "memo" and number > 1:
                continue
            begun = time.process_time()
            predictor.answer(pixels[number % 4 * BATCH :][:BATCH])
            if number:
                times[name].append(1000 * (time.process_time() - begun) / BATCH)
    plain = statistics.median(times["plain"])
    rows = {}
    for name, taken in times.items():
        model = getattr(predictors[name], "_online", None)
        tensors = [] if model is None else [*model.model.state_dict().values(), *model.initial.state_dict().values()]
        kept = sum(t.numel() * t.element_size() for t in tensors) / 2**20
        middle = statistics.median(taken)
        rows[name] = {
            "ms_an_image": round(middle, 3),
            "times_plain": round(middle / plain, 2),
            "state_mb": round(kept, 1),
        }
        print(f"{name:12} {middle:7.2f} ms {middle / plain:6.1f} x plain {kept:6.1f} MiB", flush=True)
    args.out.write_text(json.dumps({**machine(), "batch": BATCH, "views": SETTINGS, "rows": rows}, indent=1) + "\n")


def long(args: argparse.Namespace) -> None:
    """Let a method adapt to many images, and print the memory of the process on the way, MiB."""
    from fercore.prediction.adapting import AdaptSettings, load_adapting

    torch.set_num_threads(1)
    pixels, _ = faces("wild", 256)
    predictor = load_adapting(args.model, AdaptSettings(args.method, {}), device="cpu")
    rows, done = [], 0
    while done < args.frames:
        predictor.answer(pixels[done % 256 :][:BATCH])
        done += BATCH
        if done % (BATCH * 20) == 0 or done >= args.frames:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            now = next(int(each.split()[1]) for each in status.splitlines() if each.startswith("VmRSS")) / 2**10
            rows.append({"images": done, "resident_mb": round(now, 1)})
            print(rows[-1], flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    args.out.write_text(
        json.dumps({**machine(), "method": args.method, "peak_mb": round(peak, 1), "rows": rows}) + "\n"
    )


def machine() -> dict[str, Any]:
    """Return what figures depend on."""
    import fercore

    names = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    return {**names, "fercore": fercore.__version__}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("scores")
    one.add_argument("models", nargs="+")
    one.add_argument("--out", type=Path, default=Path("bench/results/test_time.json"))
    one.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    one.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    one.add_argument("--n", type=int, default=768)
    one.add_argument("--keep", type=Path, help="folder for the answers of every stream")
    one.set_defaults(command=scores)
    two = commands.add_parser("cost")
    two.add_argument("model")
    two.add_argument("--out", type=Path, default=Path("bench/results/test_time_cost.json"))
    two.add_argument("--rounds", type=int, default=5)
    two.set_defaults(command=cost)
    three = commands.add_parser("long")
    three.add_argument("model")
    three.add_argument("--out", type=Path, default=Path("bench/results/test_time_long.json"))
    three.add_argument("--method", default="tent", choices=METHODS)
    three.add_argument("--frames", type=int, default=10_000)
    three.set_defaults(command=long)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.command(args)


if __name__ == "__main__":
    main()
