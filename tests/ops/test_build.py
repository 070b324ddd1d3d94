"""Building the libraries: once, however many processes ask at the same time; a failed build leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fercore.ops import build, dispatch

# As setup.py builds: by the file alone, without fercore, whose import would load a library that is there.
BUILD = "import runpy, sys; from pathlib import Path; "
BUILD += f"runpy.run_path({build.__file__!r})['build']('cpu', Path(sys.argv[1]))"
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


@pytest.mark.slow
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


def test_a_library_is_found_where_there_are_no_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "AHEAD", tmp_path)
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_python_includes", lambda: ["/headers"])
    made = build.ahead_path("cpu")
    made.touch()
    assert made.stem.endswith("-native")
    monkeypatch.setattr(build, "_python_includes", list)
    assert build.ahead_path("cpu") != made
    assert build.find("cpu") == made


def test_a_cuda_library_built_ahead_serves_unless_others_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "AHEAD", tmp_path)
    monkeypatch.setenv("FERCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FERCORE_CUDA_ARCHS", "90")
    made = build.ahead_path("cuda")
    made.touch()
    assert build.find("cuda") == made
    monkeypatch.setenv("FERCORE_CUDA_ARCHS", "80")
    assert build.find("cuda") is None
    monkeypatch.delenv("FERCORE_CUDA_ARCHS")
    assert build.find("cuda") == made


def test_threads_that_ask_while_another_compiles_wait(tmp_path, monkeypatch):
    def compile_slowly(kind):
        time.sleep(0.3)
        return tmp_path / "made.so"

    monkeypatch.setattr(dispatch, "_states", {"cpu": dispatch.State(), "cuda": dispatch.State()})
    monkeypatch.setattr(build, "find", lambda kind: None)
    monkeypatch.setattr(build, "build", compile_slowly)
    monkeypatch.setattr(build, "load", lambda kind, path: None)
    monkeypatch.setenv("FERCORE_REQUIRE_EXT", "1")
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(dispatch.compiled, ["cpu"] * 3)) == [True] * 3


def test_variables_that_mean_nothing_are_said_once(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "_said", set())
    monkeypatch.setenv("FERCORE_REQUIRE_EXT", "true")
    assert not dispatch._required()
    assert not dispatch._required()
    assert capsys.readouterr().err == "fercore: FERCORE_REQUIRE_EXT=true is none of 0, 1; 0 is taken\n"


@pytest.mark.slow
def test_the_source_distribution_holds_the_kernels(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.split("/", 1)[1] for name in files.getnames() if "/" in name}
    sources = {path.relative_to(build.source_dir().parent).as_posix() for path in build.source_dir().rglob("*.c*")}
    assert "csrc/library.cpp" in sources
    assert sources <= names
