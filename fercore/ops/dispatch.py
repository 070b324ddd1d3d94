"""Chooses between the compiled kernels and the plain-torch reference, once a process and device type.

A library that is there already is loaded on import; otherwise the first call compiles it. FERCORE_REQUIRE_EXT=1 turns
the fallback to the reference into an error; FERCORE_KERNELS=reference asks for the reference.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fercore.ops import build, reference
from fercore.terminal import say


class ExtensionRequiredError(RuntimeError):
    """FERCORE_REQUIRE_EXT=1 is set and the compiled kernels cannot be used."""


@dataclass
class State:
    """What became of one library in this process."""

    tried: bool = False
    loaded: bool = False
    problem: str | None = None
    info: dict[str, Any] | None = None
    module: ModuleType | None = None


_loading = threading.RLock()  # a thread that asks while another compiles waits
_said: set[str] = set()
_extension: Any = None  # registers fake kernels and autograd; importable once the library is loaded
_plain: Used | None = None
"""Counts the questions while `plain_torch` holds; None outside it."""
_states: dict[str, State] = {"cpu": State(), "cuda": State()}


def state(kind: str) -> State:
    """Return what became of the library "cpu" or "cuda" in this process."""
    return _states[kind]


def _wanted() -> bool:
    return _one_of("FERCORE_KERNELS", "compiled", "reference") != "reference"


def _required() -> bool:
    return _one_of("FERCORE_REQUIRE_EXT", "0", "1") == "1"


def _one_of(name: str, *values: str) -> str:
    """Return a variable's value; say so, once, where it is none of those that mean something."""
    value = os.environ.get(name) or values[0]
    if value not in values and name not in _said:
        _said.add(name)
        say(f"fercore: {name}={value} is none of {', '.join(values)}; {values[0]} is taken", error=True)
    return value


def _load(kind: build.Kind, *, compile_missing: bool) -> None:
    with _loading:
        _load_alone(kind, compile_missing=compile_missing)


def _load_alone(kind: build.Kind, *, compile_missing: bool) -> None:
    state = _states[kind]
    if state.tried or not _wanted():
        return
    try:
        path = build.find(kind)
        if path is None and not compile_missing:
            return
        if path is None:
            say(f"fercore: compiling its {kind} kernels, once, into {build.cache_path(kind).parent}", error=True)
            path = build.build(kind)
        module = build.load(kind, path)
        if kind == "cpu":
            global _extension  # noqa: PLW0603  # a process has one library
            # After the library, whose schemas it extends.
            _extension = importlib.import_module("fercore.ops.extension")
        state.module = module
        state.info = dict(module.build_info()) if module is not None else None
        state.loaded = state.tried = True
    except (OSError, ImportError, RuntimeError) as error:
        state.tried, state.problem = True, str(error)
        reason = str(error).splitlines()[0]
        say(f"fercore: no compiled {kind} kernels, plain torch runs instead: {reason}", error=True)


def _load_now(device: str) -> None:
    _load("cpu", compile_missing=True)
    # The CPU library holds the schemas that the CUDA one only implements.
    if device == "cuda" and _states["cpu"].loaded:
        _load("cuda", compile_missing=True)


@dataclass
class Used:
    """How often an operator asked for its kernel."""

    calls: int = 0


@contextmanager
def plain_torch() -> Iterator[Used]:
    """Run the reference in this process, whatever is compiled or required: what tests compare with."""
    global _plain  # noqa: PLW0603  # as the libraries are
    outer, _plain = _plain, Used()
    try:
        yield _plain
    finally:
        _plain = outer


def compiled(device: str) -> bool:
    """Return whether ops on this device type run compiled; compiles on the first question.

    Raises:
        ExtensionRequiredError: they do not, and FERCORE_REQUIRE_EXT=1.
    """
    if _plain is not None:
        _plain.calls += 1
        return False
    state = _states.get(device)
    if state is not None and state.loaded:
        return True
    if state is not None and not state.tried and _wanted():
        # Here, not as a decorator: that imports the compiler at start.
        torch.compiler.disable(_load_now)(device)  # type: ignore[no-untyped-call]
        if state.loaded:
            return True
    if _required():
        why = (
            state.problem if state is not None else None
        ) or "FERCORE_KERNELS=reference, or no kernels for the device"
        raise ExtensionRequiredError(f"FERCORE_REQUIRE_EXT=1, but there are no compiled {device} kernels: {why}")
    return False


def native() -> ModuleType | None:
    """Return the Python module of the CPU library; None where NumPy has to do, as where there is no compiler.

    Raises:
        ExtensionRequiredError: there is none, and FERCORE_REQUIRE_EXT=1.
    """
    module = _states["cpu"].module if compiled("cpu") else None
    if module is None and _plain is None and _required():
        raise ExtensionRequiredError("FERCORE_REQUIRE_EXT=1, but the library was built without Python's headers")
    return module


def alignment(x: Tensor, y: Tensor, *rest: Any) -> reference.Alignment:
    """Sample- and class-level MMD; the arguments are those of `reference.alignment`."""
    if not compiled(x.device.type):
        return reference.alignment(x, y, *rest)
    # Whether the forward stores what the backward needs: that is memory of n^2 numbers a group.
    keep = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    sample, value, valid, _, _ = _extension.mmd(x, y, *rest, keep)
    return reference.Alignment(sample, value, valid)


def mpc(p: Tensor, q: Tensor, offdiag: bool) -> Tensor:
    """Mutual prediction consistency; the arguments are those of `reference.mpc`."""
    if not compiled(p.device.type):
        return reference.mpc(p, q, offdiag)
    value: Tensor = _extension.mpc(p, q, offdiag)
    return value


def kernels(device: str | torch.device | None = None) -> dict[str, str]:
    """Return which form each family of ops runs in on a device: "cpu", "cuda" or "reference".

    Args:
        device: default: the GPU where there is one, else the CPU.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    name = default if device is None else torch.device(device).type
    form = name if compiled(name) else "reference"
    return {"mmd": form, "mpc": form}


# On import only what is there already: compiling takes long, and may never be needed.
_load("cpu", compile_missing=False)
if _states["cpu"].loaded and torch.cuda.is_available():
    _load("cuda", compile_missing=False)


def report() -> dict[str, dict[str, Any]]:
    """Return what `fercore doctor` shows: for each library its state, path, compiler, and what it was built for."""
    facts: dict[str, dict[str, Any]] = {}
    for kind in ("cpu", "cuda"):
        now = state(kind)
        path = build.find(kind) if build.source_dir() is not None else None
        origin = "missing" if path is None else "ahead of time" if path.parent == build.AHEAD else "at first use"
        facts[kind] = {
            "loaded": now.loaded,
            "library": None if path is None else str(path),
            "built": origin,
            "compiler": build.find_compiler(kind),
            "problem": now.problem,
            **(now.info or {}),
        }
    facts["cuda"]["archs"] = [f"sm_{arch}" for arch in build.cuda_archs()]
    return facts
