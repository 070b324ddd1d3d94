"""A run that starts from a trained model (`--init MODEL`): what the model is, and what a run takes over of it.

A method that builds a network of its own takes the backbone, and every head that fits. A method that builds none adapts
the model as it is: `InitialNetwork` stands in for its `build_model`, `encode` and `predict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fercore.builtin.defaults import Defaults
from fercore.config import RunConfig, merge
from fercore.data.domains.dataset_info import task_info
from fercore.engine.model_record import WEIGHTS, ModelRecord, find_model, read_record, read_state, training_only
from fercore.errors import UserInputError
from fercore.files import sha256_of
from fercore.hooks import hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import installed_plugins
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.models.backbones import Frozen
from fercore.records.step import DomainBatch, Encoded

WHERE = "--init"
NEEDED = "give --init MODEL: a run folder, its model/, or another trained model"


@dataclass(frozen=True)
class Initial:
    """A trained model that a run starts from.

    Attributes:
        where: as it was given. classes: canonical names, in the order of its outputs.
        folder: of its files. record: of a fercore model. sha256: of its weights.
    """

    where: str
    classes: tuple[str, ...]
    folder: Path
    record: ModelRecord
    sha256: str

    def layer(self, *, alone: bool) -> dict[str, Any]:
        """Return the settings that follow from the model: its backbone, what it makes of images, and its classes.

        Args:
            alone: whether the run has no source, so that the model says which classes there are.
        """
        network = self.record.settings.model
        backbone = network["backbone"]
        arguments = network.get("backbone_args", {}).get(backbone, {})
        images = self.record.images.model_dump(include={"size", "resize", "mean", "std"})
        return {
            "model": {
                "backbone": backbone,
                "backbone_args": {backbone: arguments},
                "weights": str((self.folder / WEIGHTS).absolute()),
            },
            "data": {**images, **({"classes": list(self.classes)} if alone else {})},
        }


def read_initial(text: str) -> Initial:
    """Look at the model that a run is to start from.

    Raises:
        UserInputError: if there is none, or it cannot be started from.
    """
    folder = find_model(Path(text))
    record = read_record(folder)
    refuse_other_plugins(record, folder)
    return Initial(text, tuple(record.classes), folder, record, sha256_of(folder / WEIGHTS))


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
    alone = isinstance(data, Mapping) and not data.get("sources", True)
    return [read_initial(text).layer(alone=alone), *layers]


class InitialNetwork:
    """The hooks of a fercore model that a run adapts as it is: its network, and how it encodes and predicts.

    Its plugins do in training what they do in evaluation, as of a model that is taken over nothing else is known.

    Args:
        record: of the model. folder: where its weights are; None = the network alone, for weights that come later.
    """

    def __init__(self, record: ModelRecord, folder: Path | None = None) -> None:
        layer = record.layer()
        self._record, self._folder = record, folder
        self._resolved = assemble([p.name for p in record.plugins], [layer], preset=layer.pop("preset"))
        self._plugins = plugins_of(self._resolved, record.initial)

    @hookimpl(trylast=True)
    def build_model(self, config: RunConfig, num_classes: int) -> Model:
        """Build the network, with the rows of the run's classes alone."""
        record, resolved = self._record, self._resolved
        model = build_recorded(record, resolved, self._plugins)
        if self._folder is not None:
            read_state(model, resolved.plugins, self._folder)
        for name in [name for name in model.parts if f"parts.{name}".startswith(training_only(resolved.plugins))]:
            del model.parts[name]
        keep_classes(model, record.classes, config.data.classes or record.classes)
        self._plugins.expect_classes(num_classes)
        if isinstance(model.backbone, Frozen) and not config.model.freeze:
            model.backbone = model.backbone.module.requires_grad_(True)
        return model

    @hookimpl(trylast=True)
    def encode(self, model: Model, batch: DomainBatch, view: str) -> Encoded:
        """Run the model's own forward."""
        return self._plugins.encode(model, batch, view, self._record.evaluation.clock, "target", "evaluate")

    @hookimpl(trylast=True)
    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Return the model's own probabilities f[B,K]."""
        return self._plugins.predict(model, encoded)


def plugins_of(resolved: ResolvedRun, initial: ModelRecord | None = None, folder: Path | None = None) -> Plugins:
    """Register the built-in defaults and a run's plugins.

    Args:
        resolved: settings and plugins. initial: of the fercore model that the run adapts, if any. folder: as for
            `InitialNetwork`.
    """
    # Of two that are tried last, the one that is registered first is tried first.
    network = [] if initial is None else [InitialNetwork(initial, folder)]
    return Plugins([*network, Defaults()], resolved.plugins, resolved.versions)


def build_recorded(record: ModelRecord, resolved: ResolvedRun, plugins: Plugins) -> Model:
    """Build the network that a record describes; its weights are random.

    Raises:
        UserInputError: if the record contradicts itself.
    """
    sources = record.provenance.sources
    if len(sources) != len(resolved.config.data.sources):
        what = f"{len(sources)} sources in its provenance, {len(resolved.config.data.sources)} in its settings"
        raise UserInputError(what)
    sizes = [source.n for source in sources], record.provenance.target.n
    counts = [source.per_class for source in sources]
    task = task_info(resolved.config, record.classes, sizes, counts)
    model = plugins.build_model(resolved.config, len(record.classes), task)
    first, second = record.images.mean, record.images.std
    model.mean, model.std = (first[0], first[1], first[2]), (second[0], second[1], second[2])
    return model


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


def last_linear(head: nn.Module) -> nn.Linear | None:
    """Return the linear layer that a head is or ends in, if so."""
    last = head[-1] if isinstance(head, nn.Sequential) and len(head) else head
    return last if isinstance(last, nn.Linear) else None


@torch.no_grad()
def keep_classes(model: Model, classes: Sequence[str], wanted: Sequence[str]) -> None:
    """Give a network the rows of some of its classes, in another order where that is asked for.

    Args:
        model: changed in place. classes: of its outputs. wanted: by name.

    Raises:
        UserInputError: for a class that it does not have, or a head that is no linear layer.
    """
    if list(classes) == list(wanted):
        return
    if missing := [name for name in wanted if name not in classes]:
        what = f"the model has no class {missing[0]!r}; it has {', '.join(classes)}"
        raise UserInputError(what, where="data.classes", fix="leave it out, or train with a source that has it")
    rows = torch.tensor([list(classes).index(name) for name in wanted])
    for name, head in model.heads.items():
        layer = last_linear(head)
        if layer is None or layer.out_features != len(classes):
            what = f"head {name!r} of the model is no linear layer, so that it keeps all of {', '.join(classes)}"
            raise UserInputError(what, where="data.classes", fix="leave data.classes out")
        # Rows of the same layer, not a new one: hooks and names stay as they are.
        layer.weight = nn.Parameter(layer.weight[rows].clone())
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[rows].clone())
        layer.out_features = len(wanted)
