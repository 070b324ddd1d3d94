"""Numba beside torch: both may run on one OpenMP, whose number of threads numba's first parallel call sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_threads() -> Iterator[None]:
    """Give torch its number of threads back afterwards: it decides how sums round, and so whether runs repeat."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
