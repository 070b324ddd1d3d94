"""The network of a fercore model that a run adapts as it is: its plugins' hooks stand in for those of the method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fercore.builtin.defaults import Defaults
from fercore.config import RunConfig
from fercore.data.domains.dataset_info import task_info
from fercore.engine.model_record import ModelRecord, read_state, training_only
from fercore.errors import UserInputError
from fercore.hooks import hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.manager import Plugins
from fercore.models import Model, last_linear
from fercore.models.backbones import Frozen
from fercore.records.step import DomainBatch, Encoded


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
    refuse_other_classes(classes, wanted)
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


def refuse_other_classes(classes: Sequence[str], wanted: Sequence[str]) -> None:
    """Make sure that a model has the classes of a run.

    Raises:
        UserInputError: naming the first that it has not.
    """
    if missing := [name for name in wanted if name not in classes]:
        what = f"the model has no class {missing[0]!r}; it has {', '.join(classes)}"
        raise UserInputError(what, where="data.classes", fix="leave it out, or train with a source that has it")
