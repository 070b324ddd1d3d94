"""Every hook of fercore, in the order in which a run calls them.

An implementation takes any subset of a hook's arguments, by name, without defaults. "First result" hooks have one
owner: the first implementation that does not return None answers, and two plugins that both own one are refused.
"Collected" hooks run in every plugin. An add-on wraps a hook with `@hookimpl(wrapper=True)`; it must not yield inside
a context manager. The engine sets gradient mode, device and precision around every call.

Nothing that is handed over leads to a label of the target or to a place: see `fercore.hooks.guard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from fercore.hooks.markers import hookspec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Sampler

    from fercore.config import RunConfig
    from fercore.models.model import Model
    from fercore.records.plan import Closure, Reset, RunResult, Stage, StepLoss, StepReport, ViewRequest
    from fercore.records.step import (
        Batch,
        DomainBatch,
        Encoded,
        EncodedDataset,
        Forward,
        LossTerm,
        Progress,
        PseudoLabels,
        Purpose,
        Side,
    )
    from fercore.records.task import TaskInfo


@hookspec(since="0.1", firstresult=True)
def build_model(config: RunConfig, num_classes: int, task: TaskInfo) -> Model | None:
    """Build the network, on the CPU; called once, after the seed is set. First result.

    Args:
        config: the run's settings; the plugin's own are in `self.settings`. `data.classes` names the run's classes in
            the order of their labels; the SPECs of the data have no path.
        num_classes: number of classes K of the run. task: classes, datasets and batches.

    Returns:
        The model with its branches, heads and parts. An add-on wraps this hook to attach parts of its own.
    """


@hookspec(since="0.1")
def request_views(config: RunConfig) -> Sequence[ViewRequest]:
    """Say which augmented views of which side every step needs; called once. Collected.

    Returns:
        View requests. The same (side, name) from two plugins is made once; they must agree on its transform.
    """


@hookspec(since="0.1", firstresult=True)
def plan(config: RunConfig, model: Model, datasets: Mapping[Side, object], task: TaskInfo) -> Sequence[Stage] | None:
    """Lay out training as stages of phases, each phase with its own parameters, optimiser and schedule. First result.

    Args:
        datasets: side -> what `build_sampler` gets of its samples, for lengths that follow from them.
        task: classes, datasets and batches.

    Returns:
        The stages in order. The default is one stage with one phase, from `config.optim` and `config.train`.
    """


@hookspec(since="0.1", firstresult=True)
def build_sampler(config: RunConfig, model: Model, dataset: object, side: Side, clock: Progress) -> Sampler[int] | None:
    """Choose the order in which a side's samples are drawn; called at the start of every epoch. First result.

    Args:
        dataset: the side's samples without pixels or paths: `len()`, `labels` int64[N] (-1 on the target), `domain`
            int64[N], `subjects`.
        side: "source" or "target".

    Returns:
        A sampler over 0..N-1, or None for the built-in one (`data.class_balanced`, `data.source_sampling`).
        It must draw its random numbers from torch's global generator, which the engine restores on resume.
    """


@hookspec(since="0.1")
def refresh(
    model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset], task: TaskInfo
) -> dict[str, float] | None:
    """Renew what holds for an epoch: banks, prototypes, thresholds, mined triplets; before each epoch. Collected.

    Args:
        model: write results into buffers of `model.parts["<plugin>/..."]`, in place.
        encode_dataset: runs one whole side, un-augmented, in evaluation mode and without gradients; in this hook alone.
        task: classes, datasets and batches.

    Returns:
        Numbers for the log, or None.
    """


@hookspec(since="0.1", firstresult=True)
def encode(
    model: Model, batch: DomainBatch, view: str, clock: Progress, side: Side | None, purpose: Purpose
) -> Encoded | None:
    """Run one view of one side through the network. First result; core hook.

    Args:
        batch: one side's samples; `batch.images[view]` is float[B,3,H,W].
        side: whose samples they are; None = both sides', where every plugin lets them share a forward
            (`Plugin.joint_forward`).
        purpose: "train" in a step, "refresh" in `encode_dataset`, "evaluate" for predictions.

    Returns:
        Features float[B,D] and logits float[B,K] per branch. The default is `model(batch.images[view])`.
    """


@hookspec(since="0.1", firstresult=True)
def pseudo_label(model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
    """Give labels to the step's target samples; called without gradients. First result; core hook.

    Args:
        encoded: (side, view) -> Encoded for every requested view.

    Returns:
        Pseudo labels, or None when the method has none in this phase.
    """


@hookspec(since="0.1")
def align(
    model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
) -> Sequence[LossTerm]:
    """Return the terms that bring domains together. Collected; core hook.

    Returns:
        Loss terms named "<plugin>/<term>"; an empty list where there is nothing to align in this phase.
    """


@hookspec(since="0.1")
def loss(
    model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
) -> Sequence[LossTerm]:
    """Return every other term: supervision, consistency, regularisers. Collected; core hook.

    Returns:
        Loss terms named "<plugin>/<term>". The step minimises the sum of weight * value over all terms.
    """


@hookspec(since="0.1", firstresult=True)
def backward(model: Model, closure: Closure, clock: Progress) -> StepLoss | None:
    """Leave in the parameters the gradient that the optimiser is to step down. First result.

    The default is `closure()`: one forward of the four core hooks, and its gradient. More than one, with other weights
    or other terms, is what sharpness-aware optimisers and gradient surgery need; each is told its number by
    `clock.forward`.

    Args:
        model: weights that the hook moves in between must be put back, to the bit, before it returns.
        closure: `closure(keep=None)` zeroes the gradients, runs forward and backward, and returns a `StepLoss`; with
            `keep`, of the terms alone that `keep(term)` is true of. In this hook alone.

    Returns:
        The `StepLoss` that is to be reported; where it has no gradient, the optimiser's step is skipped.
    """


@hookspec(since="0.1", firstresult=True)
def predict(model: Model, encoded: Encoded) -> Tensor | None:
    """Turn branches into class probabilities for evaluation; called without gradients. First result.

    Returns:
        float[B,K], rows summing to 1. The default is the mean of the branches' softmax.
    """


@hookspec(since="0.1")
def after_step(model: Model, report: StepReport, clock: Progress) -> Reset | None:
    """See a finished phase of a step: moving averages, schedules of the plugin's own. Collected; without gradients.

    Returns:
        None; in a stream also a `Reset`, which puts weights, buffers and optimisers back as they were at its start.
    """


@hookspec(since="0.1")
def after_run(result: RunResult) -> None:
    """See the finished run, after result.json is written: reports, exports. Collected."""
