"""Weights of a CLIP from local files, as data only: safetensors, torch files, and OpenAI's TorchScript archives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip.model import convert_to_custom_text_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from fercore.errors import UserInputError
from fercore.models.clip.archive import is_script_archive, read_script_archive
from fercore.models.foreign import is_safetensors, weights_file
from fercore.models.weights import fault_of, read_weights

OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")
"""Buffers of OpenAI's archives that say how the network is built."""


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file's tensors by name, and the metadata of a safetensors file.

    Raises:
        UserInputError: if the file is missing, unreadable, or holds more than tensors.
    """
    weights_file(path, fix="give an existing file, a tag, or 'none'")
    if is_safetensors(path):
        state = read_weights(path)
        with safe_open(path, framework="pt") as file:
            return state, dict(file.metadata() or {})
    if is_script_archive(path):
        try:
            return read_script_archive(path), {}
        except ValueError as error:
            fix = "where it can be run: torch.save(torch.jit.load(FILE).state_dict(), OUT), and give OUT"
            raise UserInputError(f"cannot read TorchScript archive: {error}", where=str(path), fix=fix) from None
    # What DataParallel puts before each name.
    return {str(key).removeprefix("module."): tensor for key, tensor in read_weights(path).items()}, {}


def is_openai(state: Mapping[str, Tensor]) -> bool:
    """Say whether a state is OpenAI's own, of networks with QuickGELU."""
    return all(key in state for key in OPENAI_ONLY)


def fit_state(state: Mapping[str, Tensor], network: nn.Module, *, where: str) -> dict[str, Tensor]:
    """Match a file's tensors to a CLIP by name; both layouts of open_clip's text tower are understood.

    Returns:
        A state for `network.load_state_dict`, floating-point tensors in float32.

    Raises:
        UserInputError: naming the first tensors that are missing, left over, of another shape, or not finite.
    """
    wanted = network.state_dict()
    tensors = {key: tensor for key, tensor in state.items() if key not in OPENAI_ONLY and not key.endswith("attn_mask")}
    if any(key.startswith("text.") for key in wanted):
        tensors = convert_to_custom_text_state_dict(tensors)
    else:
        tensors = {key.removeprefix("text."): tensor for key, tensor in tensors.items()}
    # A scalar in some files, one number in a list in others.
    for key in ("logit_scale", "logit_bias"):
        if key in tensors and key in wanted and tensors[key].numel() == 1:
            tensors[key] = tensors[key].reshape(wanted[key].shape)
    faults = _faults(tensors, wanted)
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        fix = "choose the model these weights were made for"
        raise UserInputError(f"weights do not fit: {'; '.join(faults[:3])}{more}", where=where, fix=fix)
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def _faults(tensors: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> list[str]:
    faults = []
    for key, target in wanted.items():
        if key not in tensors:
            faults.append(f"{key} is missing")
            continue
        fault = fault_of(key, tensors[key], target)
        if fault is not None:
            faults.append(fault)
    return faults + [f"{key} is unknown to the network" for key in tensors if key not in wanted]
