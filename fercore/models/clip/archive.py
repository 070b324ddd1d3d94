"""Tensors of a TorchScript archive, as OpenAI publishes CLIP, read as data: none of its code is loaded or run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fercore.models.foreign import is_swollen, members


def is_script_archive(path: Path) -> bool:
    """Say whether a file is a TorchScript archive (a zip with code beside its data)."""
    return any(name.endswith("/constants.pkl") for name in members(path))


def read_script_archive(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a saved module by the dotted names of its attributes.

    Raises:
        ValueError: if the archive holds anything but modules, plain values and tensors.
    """
    tensors: dict[str, Tensor] = {}
    try:
        # Before anything is read: a packed archive may unfold to any size.
        if is_swollen(path):
            raise ValueError("it is packed, or makes room of its own")
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = data.removesuffix("data.pkl")
            _collect(_Reader(archive.read(data), lambda key: archive.read(f"{root}data/{key}")).load(), "", tensors)
    except Exception as error:  # a damaged archive fails in as many ways as zip, pickle and torch have errors
        raise ValueError((str(error) or type(error).__name__).splitlines()[0][:160]) from None
    return tensors


class _Module:
    """A module of the archive: its attributes, no behaviour."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


class _Reader(pickle.Unpickler):
    """An unpickler that knows modules as `_Module`, tensors, and nothing else that could be called."""

    def __init__(self, data: bytes, read: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        # The program's own classes: only what they hold is wanted, not what they do.
        if module.startswith("__torch__"):
            return _Module
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if module == "torch" and name.endswith("Storage"):
            return name
        if module == "torch.jit._pickle":
            return _as_it_is
        if (module, name) not in known:
            raise ValueError(f"it names {module}.{name}, which is no tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        _, kind, key, *_ = pid
        dtype = {"HalfStorage": torch.float16, "FloatStorage": torch.float32, "LongStorage": torch.int64,
                 "DoubleStorage": torch.float64, "IntStorage": torch.int32, "BoolStorage": torch.bool,
                 "BFloat16Storage": torch.bfloat16}.get(kind)  # fmt: skip
        if dtype is None:
            raise ValueError(f"it holds numbers of an unknown kind, {kind}")
        # frombuffer wants memory that may be written, and refuses an empty one.
        raw = bytearray(self._read(key))
        return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).clone()


def _as_it_is(value: Any, *_: Any) -> Any:
    return value


def _collect(value: Any, name: str, tensors: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        tensors[name] = value
    elif isinstance(value, _Module):
        for key, part in value.attributes.items():
            _collect(part, f"{name}.{key}" if name else key, tensors)
