"""Checkpoints: a tree of tensors and plain values as one safetensors file and one JSON file, written whole or not.

Checksums lie beside the two, and are checked before anything is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fercore.errors import UserInputError
from fercore.files import SUMS, check_sum, read_text
from fercore.writing import whole_folder, write_sums, write_tensors, write_text

TENSORS, VALUES = "state.safetensors", "state.json"


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Return the tree as JSON values, moving its tensors into `tensors` under their paths."""
    if isinstance(tree, Tensor):
        # A clone: safetensors refuses tensors that share memory.
        tensors[path] = tree.detach().to("cpu").contiguous().clone()
        return {"$tensor": path}
    if isinstance(tree, np.ndarray):
        return {"$numpy": pack(torch.from_numpy(tree.copy()), tensors, path)}
    if isinstance(tree, dict):
        # Pairs, not an object: keys may be numbers, which JSON would turn into text.
        return {"$dict": [[key, pack(value, tensors, f"{path}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, tuple):
        return {"$tuple": [pack(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]}
    if isinstance(tree, list):
        return [pack(value, tensors, f"{path}/{i}") for i, value in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"cannot save {type(tree).__name__} at {path or 'the root'} in a checkpoint")


def unpack(values: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the tree that `pack` took apart."""
    if isinstance(values, list):
        return [unpack(value, tensors) for value in values]
    if not isinstance(values, dict):
        return values
    # One tag each, as `pack` writes them: anything else is damage, and raises here.
    ((tag, inner),) = values.items()
    if tag == "$tensor":
        return tensors[inner]
    if tag == "$numpy":
        return unpack(inner, tensors).numpy()
    if tag == "$tuple":
        return tuple(unpack(value, tensors) for value in inner)
    return {key: unpack(value, tensors) for key, value in inner}


def save(folder: Path, tree: Any) -> None:
    """Write a checkpoint folder; it appears under its name only when it is complete on disk.

    Raises:
        WriteError: if it cannot be written, or the folder it belongs in is gone.
    """
    tensors: dict[str, Tensor] = {}
    values = pack(tree, tensors)
    _remove(folder)  # an incomplete one
    with whole_folder(folder, VALUES) as draft:
        write_tensors(draft / TENSORS, tensors)
        # NaN is allowed: the score of a candidate may be one, and Python alone reads the file.
        write_text(draft / VALUES, json.dumps(values, allow_nan=True))
        write_sums(draft, (TENSORS, VALUES))


def load(folder: Path) -> Any:
    """Read a checkpoint folder.

    Raises:
        UserInputError: if it is incomplete or damaged.
    """
    with naming_damage(folder):
        _check(folder / TENSORS)
        return unpack(_values(folder), load_file(folder / TENSORS))


def load_entry(folder: Path, name: str) -> Any:
    """Read one entry of a checkpoint whose tree is a dict; one without tensors.

    Raises:
        UserInputError: as `load`.
    """
    with naming_damage(folder):
        return unpack(dict(_values(folder)["$dict"])[name], {})


def _values(folder: Path) -> Any:
    _check(folder / VALUES)
    return json.loads(read_text(folder / VALUES))


def _check(file: Path) -> None:
    if not check_sum(file):
        raise ValueError(f"{SUMS} does not list {file.name}; an older version wrote it, or it is lost")


@contextmanager
def naming_damage(folder: Path) -> Iterator[None]:
    """Say of whatever goes wrong with a checkpoint's contents that it is damaged, and from which one to go on.

    Contents fail in as many ways as JSON, safetensors and the modules that take up their state have errors.
    """
    try:
        yield
    except UserInputError:
        raise
    except Exception as error:
        before = [path for path in _complete(folder.parent) if path.name < folder.name and (path / SUMS).is_file()]
        fix = f"delete that folder to resume from {before[-1].name}" if before else "start the run again: none is older"
        reason = f"{type(error).__name__} {error}" if isinstance(error, LookupError | TypeError) else str(error)
        raise UserInputError(f"damaged checkpoint: {reason[:200]}", where=str(folder), fix=fix) from error


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` batches."""
    return f"step_{step:08d}"


def newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, or None."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def _complete(folder: Path) -> list[Path]:
    # Names have leading zeros: their order is that of the steps. The values come last, so what has them is whole.
    return sorted(path for path in folder.glob("step_*") if (path / VALUES).is_file())


def prune(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints."""
    for path in sorted(folder.glob("step_*"))[:-keep]:
        _remove(path)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; what is no folder stays, for `rmtree` would open it, and wait if it is a pipe."""
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
