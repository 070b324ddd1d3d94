"""Memory of a step serves the next one, unless the C library is asked to do as it does."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from fercore.engine.setup import build_fabric
from fercore.config import RunConfig
build_fabric(RunConfig.model_validate({"device": "cpu", "train": {"allocator": sys.argv[1], "threads": 1}}))
for round in range(20):
    if round == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(12 * 2**20)  # 48 MiB: above the size up to which glibc learns to keep blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(allocator: str) -> int:
    """Return the page faults of fifteen tensors of 48 MiB, one after another."""
    command = [sys.executable, "-c", FAULTS, allocator]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_unless_the_system_allocator_is_asked_for():
    pages = 15 * 48 * 2**20 // 4096
    assert faults("keep") < pages / 10  # none, or a block once more where another has taken its place
    assert faults("system") > pages / 2


def test_other_c_libraries_are_left_alone(monkeypatch):
    from fercore.engine import allocator

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert allocator.keep_memory() is False
