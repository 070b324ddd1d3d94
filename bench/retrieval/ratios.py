"""Retrieval, measured in turns on one thread: `python -m bench.retrieval.ratios [--full]`.

Joins relate to a direct-address table of counts and offsets (told the code's width), feature search to the better of
FAISS's flat index and torch.mm + topk. Without --full the forms that take seconds are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import faiss
import numba
import torch

from bench.retrieval import forms

OUT = Path(__file__).parent.parent / "results" / "retrieval_cpu_1t.json"
FAST = ("table", "join", "numpy_argsort", "torch_sort")


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of one thread of each form, round by round; each round begins with another form."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    names = list(calls)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.thread_time()
            calls[name]()
            times[name].append(time.thread_time() - start)
    return times


def summary(times: Mapping[str, list[float]], base: str) -> dict[str, object]:
    """Return the base's median, and for each form the median ratio to it and its quartiles over the rounds."""
    row: dict[str, object] = {"base_ms": round(statistics.median(times[base]) * 1e3, 3)}
    for name, values in times.items():
        ratios = [value / floor for value, floor in zip(values, times[base], strict=True)]
        row[f"{name}_ratio"] = round(statistics.median(values) / statistics.median(times[base]), 3)
        if len(ratios) > 2:
            row[f"{name}_quartiles"] = [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]]
    return row


def joins(full: bool) -> list[dict]:
    """Exact joins of 17-bit codes, building included."""
    rows = []
    for source, target in ((10_000, 10_000), (100_000, 100_000), (1_000_000, 10_000)):
        for kind in ("uniform", "faces"):
            codes = forms.Codes(source, target, kind)
            calls = {name: partial(getattr(forms, name), codes) for name in FAST}
            row = summary(interleaved(calls, 41 if source < 1_000_000 else 11), "table")
            if kind == "uniform" and (full or source == 10_000):
                slow = {name: partial(getattr(forms, name), codes) for name in ("table", "faiss_hash", "faiss_flat")}
                if source > 10_000:
                    slow = {name: slow[name] for name in ("table", "faiss_hash")}
                row |= {k: v for k, v in summary(interleaved(slow, 3), "table").items() if "faiss" in k}
            rows.append({"rows": source, "targets": target, "codes": kind, **row})
    return rows


def mining(full: bool) -> list[dict]:
    """A million anchors against a million rows, one thread; seconds, and how many fell back."""
    rows = []
    sides = forms.faces(1_000_000 if full else 100_000)
    forms.mine(forms.faces(1000), 0.99, "cosine")
    for similarity in ("cosine", "one_minus_l1"):
        wall, start = time.perf_counter(), time.process_time()
        mined = forms.mine(sides, 0.5, similarity)
        taken, wall = time.process_time() - start, time.perf_counter() - wall
        seconds = {"cpu_seconds": round(taken, 2), "wall_seconds": round(wall, 2)}
        counts = {"triplets": len(mined), "fallbacks": mined.fallbacks}
        rows.append({"rows": len(sides[0][0]), "form": similarity, **seconds, **counts})
    return rows


def features(full: bool) -> list[dict]:
    """Top 5 of 1, 8 and 1000 queries among 1e5 x 512 features; ratios to the better of FAISS and torch."""
    data, rows = forms.Features(), []
    for count, rounds in ((1, 41), (8, 21), (1000, 5 if full else 3)):
        times = interleaved({n: partial(data.search, n, count) for n in ("bank", "faiss", "torch")}, rounds)
        base = min(("faiss", "torch"), key=lambda name: statistics.median(times[name]))
        rows.append({"rows": 100_000, "targets": count, "better": base, **summary(times, base)})
    return rows


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    numba.set_num_threads(1)
    result: dict[str, object] = {
        "torch": torch.__version__, "faiss": faiss.__version__, "machine": platform.machine(), "threads": 1,
        "full": options.full,
    }  # fmt: skip
    for measure in (joins, mining, features):
        result[measure.__name__] = rows = measure(options.full)
        for row in rows:
            print(measure.__name__, json.dumps(row), flush=True)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
