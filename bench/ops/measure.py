"""Medians of forms timed in turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(forms: Mapping[str, Callable[[], None]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Return the median seconds of each form: CPU time of one thread; wall time on several threads or a GPU."""
    cpu_time = device == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if cpu_time else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        form()
    for _ in range(rounds):
        for name, form in forms.items():
            _wait(device)
            start = clock()
            form()
            _wait(device)
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def peak_memory(form: Callable[[], None], device: str = "cpu") -> float:
    """Return by how many MB a call raises the memory in use: the process's high-water mark, or CUDA's allocator."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        form()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    form()
    done.set()
    watcher.join()
    return (peak - before) / 1e6


def main(name: str, rows: int, device: str) -> None:
    """Print the peak memory of one call on two sets of rows of width 512, after a small call has loaded everything."""
    from bench.ops import forms

    torch.set_num_threads(1)
    form = getattr(forms, name)
    form(forms.step(600, width=512, groups=1, targets=1, classes=0, device=device, floor=False))
    s = forms.step(rows, width=512, groups=1, targets=1, classes=0, device=device, floor=False)
    print(round(peak_memory(lambda: form(s), device), 1))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
