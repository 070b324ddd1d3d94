"""One phase of one training step. The only file that calls the four core hooks; it reads top to bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fercore.engine.gathering import Gathering
from fercore.engine.gradients import FeatureGradients
from fercore.engine.phases import PhaseRunner
from fercore.errors import UserInputError
from fercore.hooks.checks import HookError
from fercore.hooks.manager import Plugins
from fercore.losses import to_float32
from fercore.models import Model, normalised_apart, restore_bn_stats, swap_bn_stats
from fercore.models.parts_of_batch import Rows, in_pieces, seeing
from fercore.processes import Processes
from fercore.records.plan import StepLoss, StepReport, ViewRequest
from fercore.records.step import Batch, DomainBatch, Encoded, KeepTerm, LossTerm, Progress, Side

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class NonFiniteLoss(UserInputError):
    """A loss term became NaN or infinite; the weights of the step before are untouched."""


class StepInputs:
    """What one forward of a step is of: batch, views, where training stands, and which terms count (None = all).

    No dataclass: Fabric looks into those for tensors to convert, and refuses frozen ones.

    Args:
        answers: where the target's probabilities f[B,K] go that this forward gives, in a stream; None = nowhere.
        gathering: the batch of all processes, of which `batch` is this one's part; None = there are no others.
        gradients: looks at the terms' gradients at the features; None = nobody does.
    """

    def __init__(
        self,
        batch: Batch,
        views: Sequence[ViewRequest],
        clock: Progress,
        keep: KeepTerm | None = None,
        answers: list[Tensor] | None = None,
        gathering: Gathering | None = None,
        gradients: FeatureGradients | None = None,
    ) -> None:
        self.batch, self.views, self.clock, self.keep, self.answers = batch, views, clock, keep, answers
        self.gathering, self.gradients = gathering, gradients


class StepModule(nn.Module):
    """From a batch to its loss terms: the one module that Fabric wraps, for device, precision and processes.

    Args:
        model: the network. plugins: the run's hooks.
        joint: images that both sides have under one view's name share a forward; the plugins must allow it.
        pieces: of a view, that are encoded one after another; more than one are worked out again for their gradient.
    """

    def __init__(self, model: Model, plugins: Plugins, *, joint: bool = False, pieces: int = 1) -> None:
        super().__init__()
        self.model, self.plugins, self.joint, self.pieces = model, plugins, joint and pieces == 1, pieces

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Encode, pseudo-label and align; return the weighted terms f[] by name, in the order of names."""
        model, plugins, batch, clock = self.model, self.plugins, inputs.batch, inputs.clock
        gathering = inputs.gathering
        encoded = self._encode(inputs)
        if gathering is not None and gathering.joined:
            # From here on every process has the whole batch: what hooks make and keep of it is the same everywhere.
            encoded = {(side, view): gathering.encoded(side, own) for (side, view), own in encoded.items()}
            batch = gathering.batch(batch, batch.source.labels.device)
        if inputs.answers is not None:
            # Before the losses: the answer is that of the weights as the images came.
            view = next(view.name for view in inputs.views if view.side == "target")
            with torch.no_grad():
                inputs.answers.append(plugins.predict(model, encoded["target", view]))
        with torch.no_grad():
            pseudo = plugins.pseudo_label(model, batch, encoded, clock)
        terms = plugins.align(model, batch, encoded, pseudo, clock)
        terms += plugins.loss(model, batch, encoded, pseudo, clock)
        terms = _in_order(terms)
        if inputs.gradients is not None:
            inputs.gradients.measure(terms)
        kept = [term for term in terms if inputs.keep is None or inputs.keep(term)]
        return {term.name: term.weight * to_float32(term.value) for term in kept}

    def _encode(self, inputs: StepInputs) -> dict[tuple[Side, str], Encoded]:
        """Encode every view. Neighbours that differ in their side alone may be joined; the order of the rest stays."""
        model, plugins, batch, views = self.model, self.plugins, inputs.batch, inputs.views
        encoded: dict[tuple[Side, str], Encoded] = {}
        for view, following in zip(views, [*views[1:], None], strict=True):
            if (view.side, view.name) in encoded:
                continue
            one = batch.side(view.side)
            if not _moves_statistics(view, views):
                kept = swap_bn_stats(model)
                encoded[view.side, view.name] = self._view(one, view, inputs)
                restore_bn_stats(model, kept)
                continue
            if self.joint and following is not None and _joins(view, following, views):
                other = batch.side(following.side)
                # Views of other sizes cannot be one batch.
                if one.images[view.name].shape[1:] == other.images[view.name].shape[1:]:
                    sizes = [len(one), len(other)]
                    joined, clock = one.joined(other, view.name), inputs.clock
                    with self._seeing(inputs, view.side, following.side), normalised_apart(model, sizes):
                        both = plugins.encode(model, joined, view.name, clock, None, "train")
                    first, second = both.split(sizes)
                    encoded |= {(view.side, view.name): first, (following.side, view.name): second}
                    continue
            encoded[view.side, view.name] = self._view(one, view, inputs)
        return encoded

    def _view(self, one: DomainBatch, view: ViewRequest, inputs: StepInputs) -> Encoded:
        """Encode one view of one side, in one piece or in several."""
        clock, gathering = inputs.clock, inputs.gathering
        if self.pieces > 1 and len(one):
            own = Rows(torch.arange(len(one)), len(one))
            rows = own if gathering is None else gathering.rows([view.side])
            return in_pieces(self.model, partial(self._some, one, view, clock), rows, self.pieces)
        with self._seeing(inputs, view.side):
            return self.plugins.encode(self.model, one, view.name, clock, view.side, "train")

    def _some(self, batch: DomainBatch, view: ViewRequest, clock: Progress, at: Tensor) -> Encoded:
        some = batch.some(at, view.name)
        return self.plugins.encode(self.model, some, view.name, clock, view.side, "train")

    def _seeing(self, inputs: StepInputs, *sides: Side) -> AbstractContextManager[None]:
        """Let those know which rows the network sees who ask: other processes' parts of it, or a look at gradients."""
        if inputs.gathering is not None:
            return seeing(self.model, inputs.gathering.rows(sides))
        if inputs.gradients is not None:
            return inputs.gradients.encoding([(side, len(inputs.batch.side(side))) for side in sides])
        return nullcontext()


def _moves_statistics(view: ViewRequest, views: Sequence[ViewRequest]) -> bool:
    """Say whether running statistics take in a view: whether anyone who asks for it lets them."""
    return any(each.batch_statistics for each in views if (each.side, each.name) == (view.side, view.name))


def _joins(view: ViewRequest, following: ViewRequest, views: Sequence[ViewRequest]) -> bool:
    """Say whether a view may be encoded in one forward with the next one."""
    return following.name == view.name and _moves_statistics(following, views)


def _giving_out_terms(fabric: Fabric) -> AbstractContextManager[object]:
    """Let Fabric, which gives out numbers of the default type, leave terms in double precision as they are."""
    precision = fabric.strategy.precision
    # Under mixed precision the default would be half of the digits, for everything that hooks make.
    return precision.tensor_init_context() if precision.precision == "64-true" else nullcontext()


def train_step(
    fabric: Fabric,
    module: StepModule,
    phase: PhaseRunner,
    batch: Batch,
    views: Sequence[ViewRequest],
    clock: Progress,
    answers: list[Tensor] | None = None,
    gathering: Gathering | None = None,
    gradients: FeatureGradients | None = None,
) -> StepReport:
    """Take one optimiser step down the sum of the terms, where a term has a gradient.

    Args:
        module: the step, as Fabric wraps it. answers: in a stream, where the first forward's probabilities go.
        gathering: the batch of all processes, of which `batch` is this one's part; None = there are no others.
        gradients: looks at the terms of the first forward; None = nobody does.

    Raises:
        NonFiniteLoss: naming the term, before any weight changes.
    """
    phase.activate()
    # Read before the step: the rates that this one is taken with.
    lr, passes = phase.learning_rates(), 0

    def closure(keep: KeepTerm | None = None) -> StepLoss:
        """Run forward and backward; leaves the gradient of the terms in the parameters."""
        nonlocal passes
        # A sharpness-aware step looks again with moved weights; the answer is the first look's.
        said, looking = (answers, gradients) if passes == 0 else (None, None)
        with _giving_out_terms(fabric):
            now = replace(clock, forward=passes)
            weighted = module(StepInputs(batch, views, now, keep, said, gathering, looking))
        passes += 1
        # One transfer from the device for all terms.
        stacked = torch.stack([*weighted.values()]) if weighted else torch.zeros(0)
        values, has_gradient = dict(zip(weighted, stacked.tolist(), strict=True)), stacked.requires_grad
        if gathering is not None and not gathering.joined:
            values, has_gradient = _mean_over(gathering.processes, values, has_gradient=has_gradient)
        # Before the gradient: a loss that is not finite must leave the weights as they are.
        _check_finite(values, clock)
        phase.backward(fabric, stacked.sum())
        return StepLoss(values, has_gradient=has_gradient)

    loss = module.plugins.backward(module.model, closure, clock)
    if loss.has_gradient:
        phase.optimizer_step(fabric)
    drawn = batch if gathering is None else gathering.whole.batch
    images, total = len(drawn.source) + len(drawn.target), sum(loss.terms.values(), 0.0)
    where = clock.stage, clock.phase, clock.epoch, clock.step
    report = StepReport(*where, loss.terms, total, lr, images, skipped=not loss.has_gradient)
    return _reported(module, report, clock)


def stream_step(
    fabric: Fabric,
    module: StepModule,
    phases: Sequence[PhaseRunner],
    batch: Batch,
    views: Sequence[ViewRequest],
    clock: Progress,
) -> tuple[Tensor, list[StepReport]]:
    """Say what a stream's batch is, then adapt: every phase of the step, or a forward alone where there is none.

    Returns:
        The target's class probabilities f[B,K] as the first forward gave them, and a report of each phase.

    Raises:
        NonFiniteLoss: as `train_step`.
    """
    answers: list[Tensor] = []
    if not phases:
        with torch.no_grad():
            module(StepInputs(batch, views, clock, answers=answers))
        report = StepReport(clock.stage, "", clock.epoch, clock.step, {}, 0.0, (), len(batch.target))
        return answers[0], [_reported(module, report, clock)]
    reports: list[StepReport] = []
    for phase in phases:
        for repeat in range(phase.repeats):
            now = replace(clock, phase=phase.name, repeat=repeat)
            reports.append(train_step(fabric, module, phase, batch, views, now, None if reports else answers))
    return answers[0], reports


def _reported(module: StepModule, report: StepReport, clock: Progress) -> StepReport:
    """Tell plugins of a phase that is done, and return its report with the resets they ask for."""
    with torch.no_grad():
        resets = module.plugins.after_step(module.model, report, clock)
    return replace(report, resets=resets) if resets else report


def _mean_over(
    processes: Processes, values: Mapping[str, float], *, has_gradient: bool
) -> tuple[dict[str, float], bool]:
    """Return the terms' means over the processes, each of which has its own; one that a process lacks is 0 there."""
    every = processes.everyone((dict(values), has_gradient))
    names = sorted({name for each, _ in every for name in each})
    means = {name: sum(each.get(name, 0.0) for each, _ in every) / processes.world for name in names}
    return means, any(one for _, one in every)


def _in_order(terms: Sequence[LossTerm]) -> list[LossTerm]:
    # By name, not by the order of plugins: sums of floats depend on the order.
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
