"""Image classifiers of transformers, without their last layer: configuration as data, no code of a hub's author."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fercore.documents import parse_json
from fercore.errors import UserInputError, reason_of
from fercore.files import read_text
from fercore.models.initial.foreign_model import ForeignModel, Statistics
from fercore.models.weights import read_weights

INSTALL = 'pip install "fercore[transformers]"'
PREPROCESSOR = "preprocessor_config.json"
PREFIX = "network."
SLOTS = ("classifier", "head", "fc")


class Pooled(nn.Module):
    """A classifier whose last layer is left out: float[B,3,H,W] -> float[B,D]."""

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.pretrained_cfg = network, config

    def forward(self, images: Tensor) -> Tensor:
        """Return what the last layer would get."""
        features: Tensor = self.network(pixel_values=images).logits
        return features.flatten(1)


def read(folder: Path, file: Path, config: Mapping[str, Any]) -> ForeignModel:
    """Look at a folder of transformers.

    Raises:
        UserInputError: if transformers is missing, does not know the model, or it has no linear head.
    """
    size, mean, std = _images(folder, config)
    arguments = {"config": dict(config), "size": size, "mean": list(mean), "std": list(std)}
    head = _taken_apart(_loaded(folder, file))[1]
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    labels = config.get("id2label")
    names = None
    if isinstance(labels, Mapping) and {str(k) for k in labels} == {str(k) for k in range(len(weight))}:
        by_number = {int(k): str(name) for k, name in labels.items()}
        named = tuple(by_number[k] for k in range(len(weight)))
        names = None if any(name.upper().startswith("LABEL_") for name in named) else named
    kind = f"{config['model_type']} of transformers"
    return ForeignModel(kind, file, "transformers", weight, bias, size, mean, std, names, arguments)


def build(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a classifier of transformers without its last layer; weights are random.

    Raises:
        UserInputError: as `read`.
    """
    config = arguments.get("config")
    if not isinstance(config, Mapping):
        raise UserInputError(
            "no configuration of a network", where="model.backbone_args.transformers", fix="give --init"
        )
    network = _taken_apart(_whole(config))[0]
    side = int(arguments.get("size", 224))
    return Pooled(
        network,
        {
            "input_size": (3, side, side),
            "mean": arguments.get("mean", [0.5] * 3),
            "std": arguments.get("std", [0.5] * 3),
        },
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state of a network of `build`, from transformers' file or a run's."""
    tensors = read_weights(path)
    if any(key.startswith(PREFIX) for key in tensors):
        return tensors
    network = _taken_apart(_loaded(path.parent, path))[0]
    return {f"{PREFIX}{key}": tensor for key, tensor in network.state_dict().items()}


def _loaded(folder: Path, file: Path) -> nn.Module:
    """Load a folder's classifier as transformers does, which knows the names that weights had in its earlier versions.

    Raises:
        UserInputError: if it cannot.
    """
    # Whatever is pickled, damaged or too large is refused with a reason first.
    read_weights(file)
    try:
        from transformers import AutoModelForImageClassification
    except ImportError:
        raise UserInputError("transformers is not installed", where="--init", fix=INSTALL) from None
    try:
        network, report = AutoModelForImageClassification.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # unknown types and odd settings fail in as many ways as transformers has models
        reason = (reason_of(error).strip() or type(error).__name__).splitlines()[0]
        what = f"transformers loads no image classifier: {reason}"
        raise UserInputError(what, where=str(folder), fix="give a model of AutoModelForImageClassification") from None
    if missing := sorted(report["missing_keys"]):
        what = f"the file lacks {missing[0]}, so that it is no trained classifier"
        raise UserInputError(what, where=str(file), fix="give one that was trained, with its head")
    whole: nn.Module = network.float()
    return whole


def _taken_apart(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Return a classifier without its last layer, and that layer.

    Raises:
        UserInputError: if that is no linear layer.
    """
    for slot in SLOTS:
        layer = getattr(network, slot, None)
        if isinstance(layer, nn.Linear):
            setattr(network, slot, nn.Identity())
            return network, layer
        if isinstance(layer, nn.Sequential) and len(layer) and isinstance(last := layer[-1], nn.Linear):
            layer[-1] = nn.Identity()
            return network, last
    what = f"{type(network).__name__} has no linear layer as its {', '.join(SLOTS[:-1])} or {SLOTS[-1]}"
    raise UserInputError(what, where="--init", fix="export it as ONNX, or give another model")


def _whole(config: Mapping[str, Any]) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError:
        raise UserInputError("transformers is not installed", where="--init", fix=INSTALL) from None
    try:
        settings = {key: value for key, value in config.items() if key not in ("model_type", "auto_map")}
        made = AutoConfig.for_model(config["model_type"], **settings)
        network: nn.Module = AutoModelForImageClassification.from_config(  # type: ignore[no-untyped-call]
            made, trust_remote_code=False
        )
    except Exception as error:  # unknown types and odd settings fail in as many ways as transformers has models
        what = (
            f"transformers builds no image classifier {config.get('model_type')!r}: {reason_of(error).splitlines()[0]}"
        )
        raise UserInputError(what, where="--init", fix="give a model of AutoModelForImageClassification") from None
    return network


def _images(folder: Path, config: Mapping[str, Any]) -> tuple[int, Statistics, Statistics]:
    """Return side, mean and std of a model's images.

    Raises:
        UserInputError: if its preprocessor does not say them.
    """
    path = folder / PREPROCESSOR
    try:
        given = parse_json(read_text(path), where=str(path)) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {PREPROCESSOR}: {reason_of(error)}", where=str(path)) from None
    given = given if isinstance(given, dict) else {}
    size = given.get("crop_size", given.get("size", config.get("image_size", 224)))
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge", 224))
    mean, std = given.get("image_mean"), given.get("image_std")
    for name, values in (("image_mean", mean), ("image_std", std)):
        if not isinstance(values, list) or len(values) != 3:
            what = f"{PREPROCESSOR} has no {name} of three channels"
            raise UserInputError(
                what, where=str(path), fix="give data.mean and data.std as it was trained, in that file"
            )
    assert isinstance(mean, list)
    assert isinstance(std, list)
    side = int(size[0] if isinstance(size, list | tuple) else size)
    return side, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
