"""Builds the kernels ahead of time where torch and a compiler are at hand; everything else is in pyproject.toml.

`pip install --no-build-isolation` lets the build see the installed torch. Without it nothing is built here, and the
kernels compile on first use. FERCORE_BUILD_CUDA=1 (nvcc, no GPU needed) or 0 decides about the CUDA library; by default
it is built where torch sees a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fercore_ops_build", ROOT / "fercore" / "ops" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _wants_cuda() -> bool:
    choice = os.environ.get("FERCORE_BUILD_CUDA")
    if choice is not None:
        return choice == "1"
    import torch

    return bool(torch.cuda.is_available())


def build_libraries() -> list[Path]:
    """Compile what can be compiled here; say what was left out and why."""
    if importlib.util.find_spec("torch") is None:
        print("fercore: torch is not importable here, so the kernels will compile on first use")
        return []
    builder, built = _builder(), []
    for kind in ["cpu", *(["cuda"] if _wants_cuda() else [])]:
        try:
            built.append(builder.build(kind, builder.ahead_path(kind)))
        except (builder.BuildError, OSError) as error:
            if os.environ.get("FERCORE_REQUIRE_EXT") == "1":
                raise
            print(f"fercore: the {kind} kernels were not built: {error}")
    return built


class BuildWithKernels(build_py):
    """Compile into the source tree, then take libraries and sources along into a wheel."""

    def run(self) -> None:
        """Build the libraries, then the Python files."""
        built = build_libraries()
        super().run()
        if getattr(self, "editable_mode", False):
            return
        package = Path(self.build_lib) / "fercore" / "ops"
        if not (ROOT / "csrc" / "library.cpp").is_file():
            raise SystemExit("fercore: the folder csrc with the kernels' sources is missing beside setup.py")
        shutil.copytree(ROOT / "csrc", package / "csrc", dirs_exist_ok=True)
        (package / "_lib").mkdir(exist_ok=True)
        for library in built:
            shutil.copy2(library, package / "_lib" / library.name)


class BinaryDistribution(Distribution):
    """A wheel with libraries inside is tied to its platform."""

    def has_ext_modules(self) -> bool:
        """Return whether libraries were or will be built here."""
        return importlib.util.find_spec("torch") is not None


setup(cmdclass={"build_py": BuildWithKernels}, distclass=BinaryDistribution)
