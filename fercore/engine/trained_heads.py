"""What a network that a plugin built takes over of a trained model: its heads, wherever they fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fercore.config import RunConfig
from fercore.data import DomainSet
from fercore.data.batches.loader import eval_batches
from fercore.engine.initial import WHERE, Initial, TrainedHead, is_cut
from fercore.engine.initial_network import refuse_other_classes
from fercore.engine.model_record import WEIGHTS
from fercore.errors import UserInputError
from fercore.hooks.manager import Plugins
from fercore.models import HeadOnBackbone, Model, build_backbone, last_linear
from fercore.random_state import random_state, restore_random_state
from fercore.records.step import PLAIN


def take_over(
    model: Model, plugins: Plugins, initial: Initial, domains: DomainSet, config: RunConfig
) -> tuple[str, ...]:
    """Give a network the trained model's heads, and return the names of those that took them.

    Raises:
        UserInputError: where the model is to be adapted as it is, and its head does not fit or lacks a class.
    """
    if initial.record is not None and plugins.owner("build_model") is None:
        return tuple(model.heads)  # whole already
    classes = domains.classes
    if initial.folder is not None and is_cut(initial.folder / WEIGHTS):
        take_network(model, initial, initial.folder / WEIGHTS)
    kept = keep_heads(model, initial, classes, partial(_length_of_features, config, domains))
    if plugins.owner("build_model") is None:
        refuse_other_classes(initial.classes, classes)
        if not kept:
            what = f"the model's head is for {initial.network['backbone']}, and the backbone is another"
            raise UserInputError(what, where="model.backbone", fix="leave model.backbone and its arguments out")
    return kept


def take_network(model: Model, initial: Initial, weights: Path) -> None:
    """Give a network the backbone and the branches of a trained model that is built like it, all but the heads.

    Raises:
        UserInputError: if it is built otherwise.
    """
    tensors, own = load_file(weights), model.state_dict()
    wanted = [name for name in own if name.startswith(("backbone.", "branches."))]
    if any(name not in tensors or tensors[name].shape != own[name].shape for name in wanted):
        what = f"its network, of the {initial.kind}, cuts the backbone, and this run builds another"
        fix = "start the same method from it, a method that adapts a model as it is, or go on from its source model"
        raise UserInputError(what, where=f"{WHERE} {initial.where}", fix=fix)
    model.load_state_dict({name: tensors[name] for name in wanted}, strict=False)


@torch.no_grad()
def keep_heads(model: Model, initial: Initial, classes: Sequence[str], length: Callable[[], float]) -> tuple[str, ...]:
    """Give a network that a plugin has built the head of the trained model, row by row, wherever it fits.

    That is where the head takes the backbone's own features, as the model's does (`Model.on_backbone`), or where what
    stands between backbone and head is the same (layers of the same shapes), and the head is a linear layer as wide.
    Classes that the model does not have keep their new rows.

    Args:
        length: measures the mean length of the backbone's features, where the model does not say.

    Returns:
        names of the heads that were taken over.
    """
    kept: list[str] = []
    pairs = [(i, initial.classes.index(name)) for i, name in enumerate(classes) if name in initial.classes]
    if not pairs:
        return ()
    ours, theirs = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
    trained = initial.head_on_backbone() if model.on_backbone else None
    for name, head in model.heads.items():
        place = model.on_backbone.get(name)
        layer = last_linear(head) if place is None else place.layer
        given: tuple[Tensor, Tensor | None] | None
        if place is None or trained is None:
            given = initial.head_of(name, model.branches[name])
        else:
            given = _fitted(trained, place, length)
        if layer is None or given is None or given[0].shape[1] != layer.in_features:
            continue
        weight, bias = given
        layer.weight[ours] = weight[theirs].to(layer.weight.dtype)
        if layer.bias is not None:
            layer.bias[ours] = 0.0 if bias is None else bias[theirs].to(layer.bias.dtype)
        kept.append(name)
    return tuple(kept)


def _fitted(trained: TrainedHead, place: HeadOnBackbone, length: Callable[[], float]) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias that answer from a method's features as the trained head does from the backbone's."""
    weight = trained.weight.repeat(1, place.copies) / place.copies
    # Taken as it is, it would leave every answer near its bias on rows of length 1, and far from it on others.
    if place.unit_length and not trained.unit_length:
        weight = weight * (length() if trained.lengths is None else float(trained.lengths.mean()))
    elif trained.unit_length and not place.unit_length:
        weight = weight / length()
    return weight, trained.bias


@torch.no_grad()
def _length_of_features(config: RunConfig, domains: DomainSet) -> float:
    """Return the mean length of the backbone's features over the first plain images of the sources, or the target."""
    state = random_state()
    try:
        # Anew: a method may scale them inside its own.
        backbone = build_backbone(config.model)
        table, data = (*domains.sources, domains.adaptation)[0], config.data
        batches = eval_batches(table, data, mean=data.mean or backbone.mean, std=data.std or backbone.std)
        features: Tensor = backbone.module.eval()(next(batches).images[PLAIN])
        return float(features.norm(dim=1).mean())
    finally:
        restore_random_state(state)
