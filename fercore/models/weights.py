"""Weights from local files, as data only: safetensors, or torch files read with weights_only."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fercore.errors import UserInputError

log = logging.getLogger(__name__)
HEADS = ("classifier.", "fc.", "head.", "last_linear.")
WRAPPERS = ("state_dict", "model", "model_state_dict")
ANOTHER = "choose the backbone these weights were trained for"
PREFIXES = ("module.", "backbone.", "_orig_mod.")
RUN_BACKBONES = ("/average/model/backbone.", "/model/backbone.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a torch file (weights only, never pickled code).

    Of a run's checkpoint the backbone is read: of the averaged weights, where the run reports those.

    Raises:
        UserInputError: if the file is missing, unreadable, or holds more than tensors.
    """
    if not path.is_file():
        raise UserInputError("weights file not found", where=str(path), fix="give an existing file in model.weights")
    try:
        if path.suffix == ".safetensors":
            return _backbone_of_run(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserInputError(f"cannot read weights: {reason}", where=str(path), fix="save a plain state dict") from None
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserInputError("weights file holds no plain state dict", where=str(path))
    return dict(loaded)


def fit_weights(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, where: str, hint: str = ""
) -> dict[str, Tensor]:
    """Match a checkpoint's tensors to a network's, by name, or by position where all shapes agree in order.

    Classifier tensors that the network does not have are left out; nothing else may be missing or left over.

    Raises:
        UserInputError: naming the first tensor that does not fit.
    """
    found = {_strip(key): tensor for key, tensor in found.items()}
    body = {key: tensor for key, tensor in found.items() if key in wanted or not _is_head(key)}
    if set(body) == set(wanted):
        for key, tensor in wanted.items():
            if body[key].shape != tensor.shape:
                shapes = f"{tuple(body[key].shape)} in the file, {tuple(tensor.shape)} in the network"
                raise UserInputError(f"weights do not fit: {key} is {shapes}", where=where, fix=ANOTHER + hint)
        return dict(body)
    return _fit_by_position(list(found.items()), wanted, where, hint)


def _fit_by_position(
    found: list[tuple[str, Tensor]], wanted: Mapping[str, Tensor], where: str, hint: str
) -> dict[str, Tensor]:
    fitted: dict[str, Tensor] = {}
    for (key, target), (name, tensor) in zip(wanted.items(), found, strict=False):
        if tensor.shape != target.shape:
            what = f"weights do not fit: {key} {tuple(target.shape)} meets {name} {tuple(tensor.shape)}"
            raise UserInputError(what, where=where, fix=ANOTHER + hint)
        fitted[key] = tensor
    extra = [name for name, _ in found[len(wanted) :]]
    if len(fitted) < len(wanted) or len(extra) > 2:
        what = f"weights do not fit: {len(found)} tensors in the file, {len(wanted)} in the network"
        raise UserInputError(what, where=where, fix=ANOTHER + hint)
    log.warning("weights of %s matched by position, every shape equal (%d tensors)", where, len(fitted))
    return fitted


def _backbone_of_run(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in RUN_BACKBONES:
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if found:
            return found
    return tensors


def _strip(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _is_head(key: str) -> bool:
    return key.startswith(HEADS)
