"""Weights from local files, as data only: safetensors, or torch files read with weights_only."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor

from fercore.errors import UserInputError
from fercore.files import ChecksumError, check_sum, open_regular
from fercore.models.foreign import AGAIN, is_safetensors, is_swollen, not_weights, weights_file

log = logging.getLogger(__name__)
HEADS = ("classifier.", "fc.", "head.", "last_linear.")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
WRAPPERS = ("state_dict", "model", "model_state_dict")
EXISTING = "give an existing file in model.weights"
ANOTHER = "choose the backbone these weights were trained for"
PREFIXES = ("module.", "backbone.", "_orig_mod.", "model.", "net.")
KINDS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
# The averaged one first: it is what such a run reports.
RUN_BACKBONES = {"/average/model/backbone.": "averaged ", "/model/backbone.": ""}
# Those of `model/`, whose names are the network's own.
MODEL_BACKBONE, MODEL_HEAD = "backbone.", "heads."
REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Hint: TypeAlias = Callable[[], str]
"""More advice for weights that do not fit; it is asked for only then."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or a torch file (weights only, never pickled code).

    Of a run's checkpoint the backbone is read: of the averaged weights, where the run reports those. Averaged weights
    of other programs, such as `state_dict_ema`, go before those beside them; a line says which were read.

    Raises:
        UserInputError: if the file is missing, unreadable, has other bytes than a SHA256SUMS beside it says, or holds
            more than tensors.
    """
    weights_file(path, fix=EXISTING)
    try:
        check_sum(path)
        if is_safetensors(path):
            return _backbone_of_run(load_file(path), path)
        if is_swollen(path):
            raise not_weights(path)
        with warnings.catch_warnings(), open_regular(path) as file:
            warnings.simplefilter("ignore")  # of pickle protocols, two lines long
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserInputError(f"cannot read weights: {error.strerror}", where=str(path)) from None
    except ChecksumError as error:
        raise UserInputError(f"damaged weights: {error}", where=str(path), fix=AGAIN) from None
    except Exception:  # a damaged file fails in as many ways as zip, pickle, struct and torch have errors
        raise not_weights(path) from None
    return _state_dict_in(loaded, path)


def _state_dict_in(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict that a file holds, bare or under a usual name, averaged ones first."""
    if _is_state(loaded):
        return {str(key): tensor for key, tensor in loaded.items()}
    wrapped = {key: loaded[key] for key in (*AVERAGED, *WRAPPERS) if isinstance(loaded, Mapping) and key in loaded}
    inner = {key: _unwrap(value) for key, value in wrapped.items()}
    keys = [key for key, value in inner.items() if _is_state(value)]
    if not keys:
        fix = "save it as torch.save(model.state_dict(), FILE)"
        raise UserInputError(f"weights file holds no plain state dict but {_outline(loaded)}", where=str(path), fix=fix)
    if len(keys) > 1:
        log.warning("weights of %s: %r is read, %s beside it not", path, keys[0], _listed(map(repr, keys[1:])))
    return {str(key): tensor for key, tensor in inner[keys[0]].items()}


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) > 0 and all(isinstance(v, Tensor) for v in value.values())


def _unwrap(value: Any) -> Any:
    for key in (*WRAPPERS, "module"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    return value


def _outline(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    return f"{_listed(repr(str(key)[:40]) for key in loaded)}" if loaded else "an empty one"


def _listed(words: Iterable[str], most: int = 4) -> str:
    shown = list(words)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def fit_weights(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, where: str, hint: Hint = str
) -> dict[str, Tensor]:
    """Match a checkpoint's tensors to a network's, by name, or by position where all shapes agree in order.

    Classifier tensors that the network does not have are left out, and a line says so; nothing else may be missing or
    left over.

    Args:
        tensors: the file's tensors. wanted: the network's state. where: the file, for messages.
        hint: what else to do where they do not fit.

    Raises:
        UserInputError: naming the first tensor that does not fit, or holds values that are not finite.
    """
    tensors = bare_names(tensors, where)
    # A classifier's tensors may be left over; a tensor of the body may not.
    body = {key: tensor for key, tensor in tensors.items() if key in wanted or not _is_head(key)}
    if set(body) != set(wanted):
        # Same network, other names: another library's checkpoint. `_check` below compares every shape.
        names = _names_by_position(list(tensors), wanted, where, hint)
        _check(tensors, wanted, names, where, hint)
        log.warning("weights of %s matched by position, every shape equal (%d tensors)", where, len(names))
    else:
        names = {key: key for key in wanted}
        _check(tensors, wanted, names, where, hint)
    unused = [name for name in tensors if name not in set(names.values())]
    if unused:
        shapes = _listed(f"{name} {tuple(tensors[name].shape)}" for name in unused)
        log.warning(
            "weights of %s: %d tensors used; not used: %s (a new classifier is trained)", where, len(names), shapes
        )
    return {key: tensors[name] for key, name in names.items()}


def fault_of(key: str, tensor: Tensor, target: Tensor) -> str | None:
    """Say what keeps a file's tensor from being a network's: its shape, its kind, or numbers that are not finite."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in REAL + WHOLE:
        return f"{key} is no dense tensor of real numbers"
    if tensor.shape != target.shape:
        return f"{key} is {tuple(tensor.shape)} in the file, {tuple(target.shape)} in the network"
    if target.is_floating_point() and tensor.dtype not in REAL:
        return f"{key} holds whole numbers ({str(tensor.dtype).removeprefix('torch.')}), no weights"
    if not tensor.to(target.dtype).isfinite().all():
        return f"{key} holds values that are not finite"
    return None


def same_shapes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Say whether a checkpoint, but for its classifier, has a network's tensors, by name and shape."""
    body = {_strip(key): tensor.shape for key, tensor in tensors.items() if not _is_head(_strip(key))}
    return body == {key: tensor.shape for key, tensor in wanted.items()}


def _check(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str], where: str, hint: Hint
) -> None:
    for key, target in wanted.items():
        fault = fault_of(key if names[key] == key else f"{names[key]} for {key}", tensors[names[key]], target)
        if fault is not None:
            fix = "take a checkpoint saved before training went wrong" if "not finite" in fault else ANOTHER + hint()
            raise UserInputError(f"weights do not fit: {fault}", where=where, fix=fix)


def _names_by_position(
    file_names: Sequence[str], wanted: Mapping[str, Tensor], where: str, hint: Hint
) -> dict[str, str]:
    """Return wanted name -> name in the file in order; two tensors more, a classifier's, may stand behind."""
    if not len(wanted) <= len(file_names) <= len(wanted) + 2:
        what = f"weights do not fit: {len(file_names)} tensors in the file, {len(wanted)} in the network"
        missing = next((key for key in wanted if key not in file_names), None)
        what += f", {missing} is missing" if missing else ""
        raise UserInputError(what, where=where, fix=ANOTHER + hint())
    names = dict(zip(wanted, file_names, strict=False))
    for key, name in names.items():
        kinds = {key.rpartition(".")[2], name.rpartition(".")[2]}
        if len(kinds) == 2 and kinds <= KINDS:  # in another order, such as that of the names, shapes may agree as well
            raise UserInputError(f"weights do not fit: {name} for {key}", where=where, fix=ANOTHER + hint())
    return names


def _backbone_of_run(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for prefix, kind in RUN_BACKBONES.items():
        backbone = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if backbone:
            log.warning("weights of %s: the %sbackbone of a run is read; its heads and parts are not", path, kind)
            return backbone
    if any(key.startswith(MODEL_HEAD) for key in tensors):
        inner = {key.removeprefix(MODEL_BACKBONE): t for key, t in tensors.items() if key.startswith(MODEL_BACKBONE)}
        return inner or tensors
    return tensors


def bare_names(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return a state without what wrappers put before its names (DataParallel, Lightning, torch.compile).

    Raises:
        UserInputError: if several tensors have one name then.
    """
    bare = {_strip(key): tensor for key, tensor in tensors.items()}
    if len(bare) < len(tensors):
        what = f"weights do not fit: several tensors have one name without {_listed(PREFIXES)}"
        raise UserInputError(what, where=where, fix="save one network's state dict")
    return bare


def _strip(key: str) -> str:
    # One in the other, in any order: Lightning's module around a compiled one.
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), ""):
        key = key.removeprefix(prefix)
    return key


def _is_head(key: str) -> bool:
    return key.startswith(HEADS)
