"""Building the libraries: once, however many processes ask at the same time; a failed build leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = "import sys; from pathlib import Path; from fercore.ops import build; build.build('cpu', Path(sys.argv[1]))"
COMPILER = """#!/bin/sh
echo run >> "{log}"
sleep 0.2
while [ "$1" != "-o" ]; do shift; done
{do}
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start builds with a compiler that writes down when it runs."""

    def with_compiler(do):
        compiler = tmp_path / "cxx"
        compiler.write_text(COMPILER.format(log=tmp_path / "log", do=do))
        compiler.chmod(0o755)
        environment = {**os.environ, "CXX": str(compiler), "FERCORE_KERNELS": "reference"}

        def run():
            command = [sys.executable, "-c", BUILD, str(tmp_path / "lib" / "made.so")]
            return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

        return run

    return with_compiler


def runs(folder: Path) -> int:
    return len((folder / "log").read_text().split())


def test_processes_that_build_at_once_build_once(start, tmp_path):
    alone = start('echo made > "$2"')
    assert alone().wait() == 0
    once = runs(tmp_path)
    (tmp_path / "log").unlink()
    (tmp_path / "lib" / "made.so").unlink()
    processes = [alone() for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "lib" / "made.so").read_text() == "made\n"
    assert runs(tmp_path) == once


def test_a_failed_build_says_why_and_leaves_nothing(start, tmp_path):
    process = start("echo no such flag >&2; exit 1")()
    assert process.wait() == 1
    assert "no such flag" in process.stderr.read()
    assert list((tmp_path / "lib").iterdir()) == []
