"""Find the compiled kernels, or compile them once on first use into the user's cache.

Two libraries: `cpu` (schemas, CPU kernels, and a small Python module: build information, the AU-code index) and
`cuda` (CUDA kernels only).
`setup.py` builds ahead of time through this same file, which therefore imports nothing of fercore. Environment:

    FERCORE_CACHE          where first-use builds go (default: ~/.cache/fercore)
    FERCORE_CUDA_ARCHS     "80;90;100" by default
    FERCORE_CXXFLAGS       further compiler and linker flags of the CPU library, e.g. "-fsanitize=address -g"
    CXX, CUDACXX           the compilers
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["cpu", "cuda"]
HERE = Path(__file__).resolve().parent
AHEAD = HERE / "_lib"
# The target version limits what of torch's headers is used to its stable ABI as of 2.10.
COMMON = ["-std=c++20", "-O3", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
CXX_FLAGS = [
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-psabi",
]
NVCC_FLAGS = ["--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden", "-DUSE_CUDA"]
MACHINE_FLAGS = {
    "kernels_avx2": ["-mavx2", "-mfma"],
    "kernels_avx512": [
        "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512",
    ],
}  # fmt: skip


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message holds the compiler's last lines."""


def source_dir() -> Path | None:
    """Return the folder of the C++ sources: beside this file in a wheel, at the top of a checkout."""
    for folder in (HERE / "csrc", HERE.parent.parent / "csrc"):
        if (folder / "library.cpp").is_file():
            return folder
    return None


def sources(kind: Kind) -> list[Path]:
    """Return the sources of a library, sorted; the Python module only where Python's and pybind11's headers are."""
    folder = source_dir()
    if folder is None:
        raise BuildError("the C++ sources are not installed")
    if kind == "cuda":
        return sorted((folder / "cuda").glob("*.cu"))
    native = [folder / "native.cpp", *sorted((folder / "native").glob("*.cpp"))] if _python_includes() else []
    return [folder / "library.cpp", *native, *sorted((folder / "cpu").glob("*.cpp"))]


def cuda_archs() -> list[str]:
    """Return the compute capabilities the CUDA library is compiled for."""
    return [arch for arch in os.environ.get("FERCORE_CUDA_ARCHS", "80;90;100").split(";") if arch]


def find_compiler(kind: Kind) -> str | None:
    """Return the compiler's path, or None."""
    if kind == "cpu":
        names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    else:
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
        names = [os.environ.get("CUDACXX", ""), "nvcc", str(Path(home) / "bin" / "nvcc")]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def key(kind: Kind, *, native: bool | None = None) -> str:
    """Return a build's name: a hash of everything it depends on, the installed torch aside, then what it holds.

    Args:
        kind: "cpu" or "cuda".
        native: whether the CPU library holds the Python module; default: whether a build here would.
    """
    folder = source_dir()
    digest = hashlib.sha256()
    if folder is not None:
        # Shared headers lie at the top: they count for both libraries.
        files = [*folder.glob("*"), *folder.joinpath(kind).glob("*")]
        files += folder.joinpath("native").glob("*") if kind == "cpu" else []
        for path in sorted(p for p in files if p.suffix in {".cpp", ".h", ".inl", ".cu", ".cuh"}):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    facts: list[Any] = [
        kind,
        COMMON,
        CXX_FLAGS,
        MACHINE_FLAGS,
        os.environ.get("FERCORE_CXXFLAGS", ""),
        platform.machine(),
    ]
    # The Python module depends on the interpreter, the CUDA library on none.
    facts.append(sys.implementation.cache_tag if kind == "cpu" else NVCC_FLAGS)
    digest.update(repr(facts).encode())
    native = bool(_python_includes()) if native is None else native
    holds = ["native"] * native if kind == "cpu" else [f"sm{'_'.join(cuda_archs())}"]
    return "-".join([digest.hexdigest()[:16], *holds])


def cache_path(kind: Kind, *, native: bool | None = None) -> Path:
    """Return where a first-use build goes: one folder for each key and torch version."""
    import torch

    base = os.environ.get("FERCORE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fercore"
    )
    return Path(base) / f"{key(kind, native=native)}-torch{torch.__version__}" / f"fercore_{kind}.so"


def ahead_path(kind: Kind, *, native: bool | None = None) -> Path:
    """Return where `setup.py` puts the library: in the package, named by its key: no stale one loads."""
    return AHEAD / f"fercore_{kind}-{key(kind, native=native)}.so"


def find(kind: Kind) -> Path | None:
    """Return the library that is there already: built ahead, or in the cache; wherever it was built.

    One with the Python module is preferred. A CUDA library built ahead serves whatever architectures it was built for,
    unless FERCORE_CUDA_ARCHS asks for some.
    """
    forms = (True, False) if kind == "cpu" else (None,)
    candidates = [path(kind, native=native) for native in forms for path in (ahead_path, cache_path)]
    if kind == "cuda" and not os.environ.get("FERCORE_CUDA_ARCHS"):
        candidates += sorted(AHEAD.glob(f"fercore_cuda-{key(kind).split('-')[0]}-sm*.so"))
    return next((path for path in candidates if path.is_file()), None)


def build(kind: Kind, target: Path | None = None) -> Path:
    """Compile a library, safe under several processes: one compiles, the others wait and find it.

    Args:
        kind: "cpu" or "cuda". CUDA needs nvcc and no GPU.
        target: where to put it; default: the cache.

    Returns:
        The library's path.

    Raises:
        BuildError: no compiler, no sources, or the compiler failed.
    """
    path = cache_path(kind) if target is None else target
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if not path.is_file():
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                fresh = _compile(kind, Path(folder))
                # In one rename, from a folder on the same disk: nobody ever loads half a library.
                os.replace(fresh, path)
    return path


def load(kind: Kind, path: Path) -> ModuleType | None:
    """Load a library into torch; return its Python module if it has one."""
    import torch

    # One file is both: importing it as a Python module runs torch's registrations too.
    if kind == "cpu" and "-native" in f"{path.parent.name}/{path.name}":
        loader = importlib.machinery.ExtensionFileLoader("_native", str(path))
        spec = importlib.util.spec_from_file_location("_native", str(path), loader=loader)
        if spec is not None:
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return module
    torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    return None


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    import fcntl

    name = hashlib.sha256(str(target.resolve()).encode()).hexdigest()[:16]
    with Path(tempfile.gettempdir(), f"fercore-build-{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _python_includes() -> list[str]:
    pybind11 = importlib.util.find_spec("pybind11")
    folder = sysconfig.get_paths()["include"]
    if pybind11 is None or pybind11.origin is None or not Path(folder, "Python.h").is_file():
        return []
    return [folder, str(Path(pybind11.origin).parent / "include")]


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError("torch is not installed")
    return Path(spec.origin).parent


def _compile(kind: Kind, folder: Path) -> Path:
    compiler = find_compiler(kind)
    if compiler is None:
        raise BuildError("no C++ compiler (set CXX)" if kind == "cpu" else "no nvcc (set CUDACXX or CUDA_HOME)")
    include, libraries = _torch_folder() / "include", _torch_folder() / "lib"
    extra = os.environ.get("FERCORE_CXXFLAGS", "").split() if kind == "cpu" else []
    files = sources(kind)
    if not files:
        raise BuildError(f"there are no {kind} sources")
    commands = [
        [compiler, *_flags(kind, source, include), *extra, "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        for source in files
    ]
    # Threads: each waits for a compiler process.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(_run, commands))
    target = folder / f"fercore_{kind}.so"
    torch_libraries = ["-ltorch", "-ltorch_cpu", "-lc10"] + (["-ltorch_cuda"] if kind == "cuda" else [])
    objects = [command[-1] for command in commands]
    archs = _arch_flags() if kind == "cuda" else []
    _run([compiler, "-shared", *archs, *objects, *extra, f"-L{libraries}", *torch_libraries, "-o", str(target)])
    return target


def _flags(kind: Kind, source: Path, include: Path) -> list[str]:
    if kind == "cuda":
        return [*COMMON, *NVCC_FLAGS, *_arch_flags(), "-isystem", str(include)]
    # The same kernels are compiled for several instruction sets, and the machine chooses when it loads them.
    machine = MACHINE_FLAGS.get(source.stem, []) if platform.machine() in {"x86_64", "AMD64"} else []
    python = [flag for path in _python_includes() for flag in ("-isystem", path)] if source.stem == "native" else []
    return [*COMMON, *CXX_FLAGS, *machine, "-isystem", str(include), *python]


def _arch_flags() -> list[str]:
    archs = cuda_archs()
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    # PTX of the newest one as well: later GPUs compile it when they load it.
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"] if archs else []


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        at = f"on {command[command.index('-c') + 1]}" if "-c" in command else "at linking"
        raise BuildError("\n".join([f"{Path(command[0]).name} failed {at}:", *lines[-20:]]))
