"""One phase of one training step. The only file that calls the four core hooks; it reads top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fercore.engine.phases import PhaseRunner
from fercore.errors import UserInputError
from fercore.hooks.checks import HookError
from fercore.hooks.manager import Plugins
from fercore.models import Model, normalised_apart
from fercore.records.plan import StepReport, ViewRequest
from fercore.records.step import Batch, Encoded, LossTerm, Progress, Side

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class NonFiniteLoss(UserInputError):
    """A loss term became NaN or infinite; the weights of the step before are untouched."""


def train_step(
    fabric: Fabric,
    plugins: Plugins,
    model: Model,
    phase: PhaseRunner,
    batch: Batch,
    views: Sequence[ViewRequest],
    clock: Progress,
    *,
    joint: bool = False,
) -> StepReport:
    """Encode, pseudo-label, align, add the losses up, and take one optimiser step, where a term has a gradient.

    Args:
        joint: images that both sides have under one view's name share a forward; the plugins must allow it.

    Raises:
        NonFiniteLoss: naming the term, before any weight changes.
    """
    phase.activate()
    with fabric.autocast():
        encoded = _encode(plugins, model, batch, views, clock, joint)
        with torch.no_grad():
            pseudo = plugins.pseudo_label(model, batch, encoded, clock)
        terms = plugins.align(model, batch, encoded, pseudo, clock)
        terms += plugins.loss(model, batch, encoded, pseudo, clock)
        terms = _in_order(terms)
        weighted = torch.stack([term.weight * term.value.float() for term in terms]) if terms else torch.zeros(0)
        total = weighted.sum()
    values: dict[str, float] = dict(zip((term.name for term in terms), weighted.tolist(), strict=True))
    _check_finite(values, clock)
    lr = phase.learning_rates()
    skipped = not phase.optimizer_step(fabric, total)
    images, sum_ = len(batch.source) + len(batch.target), sum(values.values(), 0.0)
    report = StepReport(clock.stage, clock.phase, clock.epoch, clock.step, values, sum_, lr, images, skipped)
    with torch.no_grad():
        plugins.after_step(model, report, clock)
    return report


def _encode(
    plugins: Plugins, model: Model, batch: Batch, views: Sequence[ViewRequest], clock: Progress, joint: bool
) -> dict[tuple[Side, str], Encoded]:
    """Encode every view. Neighbours that differ in their side alone may be joined; the order of the rest stays."""
    encoded: dict[tuple[Side, str], Encoded] = {}
    for view, following in zip(views, [*views[1:], None], strict=True):
        if (view.side, view.name) in encoded:
            continue
        one = batch.side(view.side)
        if joint and following is not None and following.name == view.name:
            other = batch.side(following.side)
            if one.images[view.name].shape[1:] == other.images[view.name].shape[1:]:
                sizes = [len(one), len(other)]
                with normalised_apart(model, sizes):
                    both = plugins.encode(model, one.joined(other, view.name), view.name, clock)
                first, second = both.split(sizes)
                encoded |= {(view.side, view.name): first, (following.side, view.name): second}
                continue
        encoded[view.side, view.name] = plugins.encode(model, one, view.name, clock)
    return encoded


def _in_order(terms: Sequence[LossTerm]) -> list[LossTerm]:
    ordered = sorted(terms, key=lambda term: term.name)
    names = [term.name for term in ordered]
    if len(set(names)) < len(names):
        raise HookError(f"two loss terms share a name: {names}")
    return ordered


def _check_finite(values: dict[str, float], clock: Progress) -> None:
    for name, value in values.items():
        if not torch.isfinite(torch.tensor(value)):
            where = f"stage {clock.stage}, step {clock.step}"
            fix = "start again with a lower optim.lr or optim.clip_grad_norm=1.0; checkpoints so far are kept"
            raise NonFiniteLoss(f"loss term {name!r} is {value}", where=where, fix=fix)
