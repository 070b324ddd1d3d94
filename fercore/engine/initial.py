"""A run that starts from a trained model (`--init MODEL`): what the model is, and what a run takes over of it.

A method that builds a network of its own takes the backbone, and every head that fits. A method that builds none adapts
the model as it is: `InitialNetwork` stands in for its `build_model`, `encode` and `predict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fercore.config import ModelSettings, merge
from fercore.data.domains.load import read_domain
from fercore.data.images.resize import fitted
from fercore.data.images.views import plain_views
from fercore.data.spec import DomainSpec
from fercore.engine.model_record import RECORD, WEIGHTS, ModelRecord, find_model, read_features, read_record
from fercore.errors import UserInputError
from fercore.files import sha256_of
from fercore.hooks.discovery import installed_plugins
from fercore.models import build_backbone
from fercore.models.hub import snapshot
from fercore.models.initial import ForeignModel, read_foreign, split_names
from fercore.models.initial.foreign_model import GIVE_NAMES, canonical_names
from fercore.models.packaged import PREFIX
from fercore.random_state import random_state, restore_random_state
from fercore.records.step import PLAIN
from fercore.runs.folder import CONFIG, MODEL

WHERE = "--init"
NEEDED = "give --init MODEL: a run folder, its model/, or another trained model"


class TrainedHead(NamedTuple):
    """A head on pooled features: weight f[K,C], bias f[K], and lengths f[N] of some features, where they are known."""

    weight: Tensor
    bias: Tensor | None
    lengths: Tensor | None

    @property
    def unit_length(self) -> bool:
        """Whether it takes features that are scaled to length 1."""
        return self.lengths is not None and bool((self.lengths - 1).abs().max() < 1e-3)


@dataclass(frozen=True)
class Initial:
    """A trained model that a run starts from.

    Attributes:
        where: as it was given. kind: what it is, in words. classes: canonical names, in the order of its outputs.
        network: the settings `model` that build its backbone and load it. size, resize, mean, std: of its images.
        sha256: of its weights.
        folder, record: of a fercore model. foreign: another program's model. One of the two is None.
    """

    where: str
    kind: str
    classes: tuple[str, ...]
    network: Mapping[str, Any]
    images: Mapping[str, Any]
    sha256: str
    folder: Path | None = None
    record: ModelRecord | None = None
    foreign: ForeignModel | None = None

    def layer(self, *, alone: bool) -> dict[str, Any]:
        """Return the settings that follow from the model: its backbone, what it makes of images, and its classes.

        Args:
            alone: whether the run has no source, so that the model says which classes there are.
        """
        classes = {"classes": list(self.classes)} if alone else {}
        return {"model": dict(self.network), "data": {**self.images, **classes}}

    def features(self) -> dict[str, Tensor]:
        """Return branch -> features f[N,D] of images that it was trained on, where it carries some."""
        if self.folder is None:
            return {}
        return {name: torch.from_numpy(rows) for name, rows in read_features(self.folder).items()}

    def head_on_backbone(self) -> TrainedHead | None:
        """Return its head, where that takes the backbone's own features; None = it takes others."""
        if self.foreign is not None:
            return TrainedHead(self.foreign.weight, self.foreign.bias, None)
        assert self.folder is not None
        tensors = load_file(self.folder / WEIGHTS)
        heads = {key.split(".")[1] for key in tensors if key.startswith("heads.")}
        # With several it would be left open which one is the model's answer.
        if len(heads) != 1 or _under(tensors, "branches."):
            return None
        (name,) = heads
        layer = self._layer_of(_under(tensors, f"heads.{name}."))
        rows = self.features().get(name)
        return layer and TrainedHead(*layer, None if rows is None else rows.float().norm(dim=1))

    def _layer_of(self, head: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None] | None:
        """Return weight and bias of the only linear layer in a head's tensors, if it is for the model's classes."""
        layers = [key for key, tensor in head.items() if key.endswith("weight") and tensor.ndim == 2]
        if len(layers) != 1 or len(head[layers[0]]) != len(self.classes):
            return None
        return head[layers[0]], head.get(layers[0].removesuffix("weight") + "bias")

    def head_of(self, name: str, branch: nn.Module) -> tuple[Tensor, Tensor | None] | None:
        """Return weight f[K,D] and bias f[K] of a fercore model's head behind a branch; None = it has none that fits.

        The branch's weights are copied into `branch`, where they are of the same shapes.
        """
        if self.folder is None:
            return None
        tensors = load_file(self.folder / WEIGHTS)
        own, wanted = _under(tensors, f"branches.{name}."), branch.state_dict()
        if {key: t.shape for key, t in own.items()} != {key: t.shape for key, t in wanted.items()}:
            return None
        layer = self._layer_of(_under(tensors, f"heads.{name}."))
        if layer is not None:
            branch.load_state_dict(own)
        return layer


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def read_initial(
    text: str,
    *,
    backbone: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    target: DomainSpec | None = None,
) -> Initial:
    """Look at the model that a run is to start from.

    Args:
        text: a run folder, a `model/` folder, hf://owner/name, a file of another program, or package:NAME; of another
            program's model `?names=a,b,...` behind it names the outputs in order.
        backbone, arguments: the timm model that a file of weights is of. target: its images show an unknown order.

    Raises:
        UserInputError: if there is none, or it cannot be started from.
    """
    place, names = split_names(text)
    path = None if place.startswith(PREFIX) else snapshot(place) or Path(place)
    ours = [] if path is None else [path / CONFIG, path / RECORD, path / MODEL / RECORD]
    if any(file.is_file() for file in ours):
        if names is not None:
            raise UserInputError("?names= on a fercore model, which names its classes", where=WHERE, fix="leave it out")
        return _of_fercore(place)
    return _of_others(place, names, backbone, arguments or {}, target)


def _of_fercore(place: str) -> Initial:
    folder = find_model(Path(place))
    record = read_record(folder)
    refuse_other_plugins(record, folder)
    name = record.settings.model["backbone"]
    arguments = record.settings.model.get("backbone_args", {}).get(name, {})
    # The first stages alone are no backbone that another method could load: `take_network` brings them.
    weights = "none" if is_cut(folder / WEIGHTS) else str((folder / WEIGHTS).absolute())
    network = {"backbone": name, "backbone_args": {name: arguments}, "weights": weights}
    images = record.images.model_dump(include={"size", "resize", "mean", "std"})
    kind = f"fercore model of {'+'.join(plugin.name for plugin in record.plugins)}"
    return Initial(place, kind, tuple(record.classes), network, images, sha256_of(folder / WEIGHTS), folder, record)


def is_cut(weights: Path) -> bool:
    """Return whether a model's backbone is that of `build_trunk`, by the names of its tensors."""
    with safe_open(weights, "pt") as file:
        return any(name.startswith("backbone.extractor.") for name in file.keys())


def _of_others(
    place: str,
    given: tuple[str, ...] | None,
    backbone: str | None,
    arguments: Mapping[str, Any],
    target: DomainSpec | None,
) -> Initial:
    foreign = read_foreign(place, backbone=backbone)
    own = arguments if foreign.backbone == backbone else {}
    names, weights = given or foreign.names, str(foreign.file.absolute())
    network = {"backbone": foreign.backbone, "backbone_args": {foreign.backbone: dict(foreign.arguments or own)}}
    network["weights"] = place if place.startswith(PREFIX) else weights
    images = {"size": foreign.size, "mean": list(foreign.mean), "std": list(foreign.std)}
    if names is None:
        raise unknown_order(foreign, network, target, where=place)
    classes = canonical_names(names, len(foreign.weight), where=place)
    return Initial(place, foreign.kind, classes, network, images, sha256_of(foreign.file), foreign=foreign)


ORDERS: Mapping[str, tuple[str, ...]] = {
    "FER2013's order": ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"),
    "that of the alphabet": ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
}
"""Orders that outputs of seven come in; with contempt it is second in the alphabet, and the last of FERPlus."""


@torch.no_grad()
def unknown_order(
    foreign: ForeignModel, network: Mapping[str, Any], target: DomainSpec | None, *, where: str
) -> UserInputError:
    """Return the error of a model whose outputs nobody names, with what it says of three images in either order."""
    orders, outputs = ORDERS, len(foreign.weight)
    if outputs == 8:
        orders = {"FERPlus' order": (*ORDERS["FER2013's order"], "contempt"),
                  "that of the alphabet": ("anger", "contempt", *ORDERS["that of the alphabet"][1:])}  # fmt: skip
    what = f"nobody says in which order the {outputs} outputs of the model are"
    if target is None or outputs not in (7, 8):
        return UserInputError(what, where=where, fix=GIVE_NAMES)
    state = random_state()
    try:
        table, _ = read_domain(target)
        rows = [0, len(table) // 2, len(table) - 1]
        settings = ModelSettings.model_validate({**network})
        model = build_backbone(settings).module.eval()
        readings = []
        for row, pixels in zip(rows, table.read_many(rows), strict=True):
            square = np.ascontiguousarray(fitted(pixels, foreign.size, "stretch"))
            images = plain_views(foreign.mean, foreign.std).make(square[None], np.zeros(1, dtype=np.int64))[PLAIN]
            bias = 0 if foreign.bias is None else foreign.bias
            output = int((model(images) @ foreign.weight.T + bias).argmax())
            said = " or ".join(f"{names[output]} ({order})" for order, names in orders.items())
            readings.append(f"{Path(str(table.keys[row])).name}: {said}")
    except UserInputError:
        return UserInputError(what, where=where, fix=GIVE_NAMES)
    finally:
        restore_random_state(state)
    return UserInputError(f"{what}: {'; '.join(readings)}", where=where, fix=GIVE_NAMES)


def with_initial(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lay what follows from `model.init`, where it is given, under layers of settings; what they say themselves wins.

    Raises:
        UserInputError: as `read_initial`.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    network, data = merged.get("model", {}), merged.get("data", {})
    text = network.get("init") if isinstance(network, Mapping) else None
    if not isinstance(text, str):
        return list(layers)
    named = network.get("backbone")
    alone, target = isinstance(data, Mapping) and not data.get("sources", True), None
    if isinstance(data, Mapping) and isinstance(data.get("target"), DomainSpec):
        target = data["target"]
    tables = network.get("backbone_args", {})
    own = tables.get(named, {}) if isinstance(tables, Mapping) and isinstance(named, str) else {}
    initial = read_initial(text, backbone=named if isinstance(named, str) else None, arguments=own, target=target)
    weights = network.get("weights", initial.network["weights"])
    if weights != initial.network["weights"]:
        what = f"model.weights={weights} beside a model to start from, which brings its own"
        raise UserInputError(what, where=WHERE, fix="leave out one of the two")
    return [initial.layer(alone=alone), *layers]


def going_on_from(layers: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the settings of a run that goes on from another one, which had the same settings of the network.

    Weights that they name are what that one began with; this one has its.

    Args:
        folder: of the finished run.

    Raises:
        UserInputError: as `with_initial`.
    """
    kept = []
    for layer in layers:
        own = dict(layer)
        if isinstance(network := own.pop("model", None), Mapping):
            network = {key: value for key, value in network.items() if key != "weights"}
        # An empty table laid over another would empty it.
        kept.append({**own, "model": network} if network else own)
    return with_initial([*kept, {"model": {"init": str(folder.absolute())}}])


def refuse_other_plugins(record: ModelRecord, folder: Path) -> None:
    """Make sure that the plugins of a model are installed, in its versions, before any is imported.

    Raises:
        UserInputError: naming the first that is not.
    """
    available = installed_plugins()
    for plugin in record.plugins:
        package = f"{plugin.distribution}=={plugin.version}"
        here = available.get(plugin.name)
        if here is None or (here.distribution, here.version) != (plugin.distribution, plugin.version):
            now = "which is not installed" if here is None else f"and {here.distribution} {here.version} is installed"
            what = f"the model needs plugin {plugin.name!r} of {plugin.distribution} {plugin.version}, {now}"
            raise UserInputError(what, where=str(folder), fix=f"pip install {package}")
    if record.initial is not None:
        refuse_other_plugins(record.initial, folder)
