"""Adapting while predicting: batch by batch, from the initial network on, with a way back to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from fercore.config import StreamSettings
from fercore.documents import Shape, misfit
from fercore.engine.phases import PhaseRunner, optimisers_of
from fercore.engine.step import StepModule, stream_step
from fercore.errors import UserInputError
from fercore.evaluation.collapse import Watch
from fercore.hooks.manager import Plugins
from fercore.hooks.plugin import Plugin
from fercore.models import Model
from fercore.records.plan import StepReport, ViewRequest
from fercore.records.step import PLAIN, Batch, DomainBatch, Encoded, Progress

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class _Position(Shape):
    """How far a stream is, as its state says."""

    images: int = Field(ge=0)
    since_reset: int = Field(ge=0)
    stopped_at: int | None
    resets: dict[str, int]
    alarms: list[str]


@torch.no_grad()
def refuse_other_forward(methods: Sequence[Plugin], plugins: Plugins, model: Model, size: int) -> None:
    """Make sure that a trained model answers through its forward, for methods that run it by themselves.

    Args:
        methods: of the run. plugins: its hooks. model: as it is adapted. size: of its images, pixels.

    Raises:
        UserInputError: if its own plugin encodes images otherwise.
    """
    names = [plugin.name for plugin in methods if plugin.runs_network]
    if not names or plugins.owner("build_model") is not None:
        return
    training = model.training
    model.eval()
    black, zero = torch.zeros(1, 3, size, size), torch.zeros(1, dtype=torch.int64)
    batch, clock = DomainBatch({PLAIN: black}, zero - 1, zero, zero), Progress("", "", 0, 0, 1)
    theirs = plugins.alone().encode(model, batch, PLAIN, clock, "target", "evaluate").logits
    own: Encoded = model(black)
    model.train(training)
    if theirs.keys() != own.logits.keys() or not all(torch.equal(theirs[name], own.logits[name]) for name in theirs):
        what = f"{names[0]} runs the network several times, and this model answers through hooks of its plugin"
        raise UserInputError(what, where="--init", fix="take a method that runs it once a batch")


class Online:
    """Predicts a stream's batches and adapts to each after it; nothing of the stream is kept but what the method keeps.

    Args:
        fabric: device and precision. module: the step, as Fabric wraps it. runners: the stage's phases; none = a method
            without gradients. views: of the stage. num_classes: K. settings: when weights go back.

    Attributes:
        model: the network that adapts. view: of the target, that is answered. initial: the network as it is now, for
            good. stopped_at: images after which the alarm ended adaptation; None =
            it goes on. resets: reason -> times that weights went back. alarms: what sounded, in words.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: StepModule,
        runners: Sequence[PhaseRunner],
        views: Sequence[ViewRequest],
        num_classes: int,
        settings: StreamSettings,
    ) -> None:
        self._fabric, self._module, self.runners, self._views = fabric, module, runners, views
        self.view = next(view.name for view in views if view.side == "target")
        self._settings, self._watch = settings, Watch(num_classes)
        self.model: Model = module.model
        self._plain = module.plugins.alone()
        # A copy, not a checkpoint: it predicts beside the one that adapts, and is what weights go back to.
        self.initial: Model = copy.deepcopy(self.model).requires_grad_(False)
        self.images = self._since_reset = 0
        self.stopped_at: int | None = None
        self.resets: dict[str, int] = {}
        self.alarms: list[str] = []

    def take(self, batch: Batch, clock: Progress) -> tuple[Tensor, list[StepReport]]:
        """Return the class probabilities f[B,K] of the target's images, and what adapting to them did.

        Raises:
            NonFiniteLoss: if a loss term is not finite, before any weight changes.
        """
        every = self._settings.reset_every
        if every is not None and self._since_reset >= every and self.stopped_at is None:
            self._reset(f"every {every} images")
        n = len(batch.target)
        reports: list[StepReport] = []
        if self.stopped_at is not None:
            probs = self.initially(batch.target, clock)
        else:
            probs, reports = stream_step(self._fabric, self._module, self.runners, batch, self._views, clock)
            self._look(batch.target, probs, clock)
        self.images += n
        self._since_reset += n
        for reason in dict.fromkeys(reset.reason for report in reports for reset in report.resets):
            self._reset(reason)
        if self._settings.alarm != "off" and self.stopped_at is None and (reason := self._watch.alarm()):
            self.alarms.append(f"after {self.images} images: {reason}")
            self._reset("alarm")
            self.stopped_at = self.images if self._settings.alarm == "stop" else None
        return probs, reports

    @torch.no_grad()
    def initially(self, batch: DomainBatch, clock: Progress) -> Tensor:
        """Return the probabilities f[B,K] of the initial network in evaluation mode, without the method's hooks."""
        self.initial.eval()
        with self._fabric.autocast():
            encoded = self._plain.encode(self.initial, batch, self.view, clock, "target", "evaluate")
        return self._plain.predict(self.initial, encoded)

    def _look(self, batch: DomainBatch, probs: Tensor, clock: Progress) -> None:
        """Show every so many images of the stream to the initial network as well."""
        # By the place in the stream, not in the batch: batch sizes do not change which images are watched.
        rows = slice(-self.images % self._settings.watch_every, None, self._settings.watch_every)
        if self._settings.alarm != "off" and len(probs[rows]):
            images = {name: view[rows] for name, view in batch.images.items()}
            extras = {name: values[rows] for name, values in batch.extras.items()}
            some = DomainBatch(images, batch.labels[rows], batch.domain[rows], batch.index[rows], extras)
            self._watch.add(self.initially(some, clock), probs[rows])

    @torch.no_grad()
    def _reset(self, reason: str) -> None:
        """Put weights, buffers and optimisers back as the stream began."""
        self.model.load_state_dict(self.initial.state_dict())
        for optimiser in optimisers_of(self.runners):
            # Momentum of the weights that are gone would push the initial ones the same way again.
            optimiser.forget()
        self._watch.forget()
        self._since_reset = 0
        self.resets[reason] = self.resets.get(reason, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Return what it goes on from, beside the network and the optimisers."""
        return {
            "initial": dict(self.initial.state_dict()),
            "watch": self._watch.state_dict(),
            "position": {
                "images": self.images,
                "since_reset": self._since_reset,
                "stopped_at": self.stopped_at,
                "resets": dict(self.resets),
                "alarms": list(self.alarms),
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            Exception: of any kind, if it is not that.
        """
        if fault := misfit(state["position"], _Position):
            raise ValueError(fault)
        # From the checkpoint: the network may have been adapted by the time this object was made.
        self.initial.load_state_dict(state["initial"])
        self._watch.load_state_dict(state["watch"])
        position = state["position"]
        self.images, self._since_reset = position["images"], position["since_reset"]
        self.stopped_at, self.resets, self.alarms = position["stopped_at"], dict(position["resets"]), position["alarms"]
