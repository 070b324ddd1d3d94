"""A model that adapts to what it predicts on: `fercore predict --adapt NAME`, batch by batch, in constant memory.

The state of a stream is a folder of checkpoints (weights, optimisers, what the method keeps, how many pictures are
done), so that a later call, or one after a kill, goes on to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fercore.arguments import Assignments, assigned
from fercore.config import Device, merge
from fercore.data.domains.dataset_info import SideInfo, task_info
from fercore.documents import Shape, misfit
from fercore.engine.initial import read_initial, with_initial
from fercore.engine.online import Online, refuse_other_forward
from fercore.engine.phases import optimisers_of, runners_of
from fercore.engine.resume import changes_text, differences, settings_of
from fercore.engine.setup import build_fabric, build_plugins, device_here
from fercore.engine.step import StepModule
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.hooks.checks import HookError, no_exit
from fercore.prediction.predictor import Predictor, load_predictor
from fercore.random_state import random_state, restore_random_state, seed_everything
from fercore.records.outputs import Outputs
from fercore.records.plan import Stage
from fercore.records.step import SIDES, Batch, DomainBatch, EncodedDataset, Progress, Side
from fercore.runs import checkpoint

ENDLESS = 10**9
"""Steps of a stream whose length nobody knows."""
SAVE_EVERY = 50
"""Batches between two states that are saved by themselves."""
WHERE = "--adapt"

Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass(frozen=True)
class AdaptSettings:
    """How a model is to adapt while it predicts.

    Attributes:
        method: name of the plugin. assignments: settings of it, of `stream`, `optim` or `data`, "a.b=value" each or
            dotted name -> value.
        reset_every: images after which the model is the initial one again; None = never by itself.
        state: folder that the state is read from, where it is there, and saved in.
    """

    method: str
    assignments: Assignments = ()
    reset_every: int | None = None
    state: Path | None = None

    def record(self) -> dict[str, Any]:
        """Return what decides the answers, as JSON values."""
        return {"method": self.method, "set": self.layer(), "reset_every": self.reset_every}

    def layer(self) -> dict[str, Any]:
        """Return the settings that were given, as nested tables."""
        layer: dict[str, Any] = {}
        for _, table in assigned(self.assignments):
            layer = merge(layer, table)
        return layer


class _State(Shape):
    """What a saved stream says beside its tensors."""

    steps: Count
    number: Count
    pictures: Count


class Adapting(Predictor):
    """A predictor whose every answer to a batch is followed by a step that adapts to it.

    Args:
        given: the model as it is. online: the method around a copy of it. settings: of the run that this would be.
        model_sha256: of the model's weights. how: what was asked for.

    Attributes:
        pictures: that were answered up to the last state, where answering begins again. tell: hears of alarms.
    """

    def __init__(
        self, given: Predictor, online: Online, settings: Mapping[str, Any], model_sha256: str, how: AdaptSettings
    ) -> None:
        vars(self).update(vars(given))
        self._model, self._online, self._settings = online.initial, online, settings
        self._sha256, self.how = model_sha256, how
        batch = settings["data"]["target_batch"]
        self.record = given.record.model_copy(
            update={"evaluation": given.record.evaluation.model_copy(update={"batch": batch}), "shift": None}
        )
        self._steps = self._saved = self._number = self.pictures = 0
        self._random = random_state()
        self.tell: Callable[[str], None] = lambda line: None

    def answer(
        self, pixels: np.ndarray, *, extras: Mapping[str, np.ndarray] | None = None, flip: bool = False
    ) -> Outputs:
        """Return what the model says of one batch, in its order, and adapt to it; no random generator is moved.

        Args:
            pixels: uint8[B,3,S,S], B at least 1, as `fit` makes them. extras: name -> [B,...]. flip: must be False.
        """
        if flip:
            raise UserInputError("mirror images are not for a model that adapts", where="--tta", fix="leave it out")
        outside, alarms = random_state(), len(self._online.alarms)
        restore_random_state(self._random)
        try:
            clock = Progress("stream", "", 0, self._steps, ENDLESS)
            beside = {name: torch.from_numpy(values) for name, values in (extras or {}).items()}
            seen = self._seen(self._normalised(pixels), beside)
            probs, _ = self._online.take(Batch(_nobody(self.device), seen), clock)
            self._random = random_state()
        finally:
            restore_random_state(outside)
        self._steps += 1
        for text in self._online.alarms[alarms:]:
            ended = self._online.stopped_at is not None
            self.tell(f"alarm {text}; " + ("the initial model predicts from here on" if ended else "adapting anew"))
        probs = probs.detach() if self.record.calibration is None else self.record.calibration.apply(probs.detach())
        return Outputs(probs.float().cpu().numpy(), {}, {}, np.full(len(pixels), -1))

    def _seen(self, images: Tensor, extras: Mapping[str, Tensor]) -> DomainBatch:
        n = len(images)
        number = torch.arange(self._online.images, self._online.images + n)
        zeros = torch.zeros(n, dtype=torch.int64)
        return DomainBatch({self._online.view: images}, zeros - 1, zeros, number, extras, (n,)).to(self.device)

    def report(self) -> dict[str, Any]:
        """Return what became of adapting, as JSON values."""
        online = self._online
        return {"resets": dict(online.resets), "alarms": list(online.alarms), "stopped_at": online.stopped_at}

    def save(self, pictures: int, *, now: bool = True) -> None:
        """Keep the state on disk, where that is asked for.

        Args:
            pictures: of the table that are answered. now: False = only `SAVE_EVERY` batches after the last state.

        Raises:
            WriteError: if it cannot be written; the state before stays good.
        """
        if self.how.state is None or not (now or self._steps - self._saved >= SAVE_EVERY):
            return
        state = {
            "settings": dict(self._settings),
            "position": {"steps": self._steps, "number": self._number, "pictures": pictures},
            "model_sha256": self._sha256,
            "model": dict(self._online.model.state_dict()),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers_of(self._online.runners)],
            "online": self._online.state_dict(),
            "random": self._random,
        }
        self.how.state.mkdir(parents=True, exist_ok=True)
        # A number of its own: a state may be saved anew without a step, and one before it must be there meanwhile.
        checkpoint.save(self.how.state / checkpoint.name_of(self._number), state)
        checkpoint.prune(self.how.state, 2)
        self._saved, self._number = self._steps, self._number + 1

    def load(self) -> bool:
        """Go on from the state on disk, and say whether there is one.

        Raises:
            UserInputError: if it is damaged, of another model, or of other settings.
        """
        latest = None if self.how.state is None else checkpoint.newest(self.how.state)
        if latest is None:
            return False
        state = checkpoint.load(latest)
        with checkpoint.naming_damage(latest):
            if fault := misfit(state["position"], _State):
                raise ValueError(fault)
            if state["model_sha256"] != self._sha256:
                raise UserInputError("the state is of another model", where=str(latest), fix="give another --state")
            if changed := differences(state["settings"], self._settings):
                what = f"the state was saved with other settings: {changes_text(changed)}"
                raise UserInputError(what, where=str(latest), fix="put back what it was, or give another --state")
            self._online.model.load_state_dict(state["model"])
            for optimiser, saved in zip(optimisers_of(self._online.runners), state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self._online.load_state_dict(state["online"])
            self._random = state["random"]
        self._steps = self._saved = state["position"]["steps"]
        self._number, self.pictures = state["position"]["number"] + 1, state["position"]["pictures"]
        return True


def _nobody(device: torch.device) -> DomainBatch:
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return DomainBatch({}, nothing, nothing, nothing, {}, ())


@no_exit()
def load_adapting(path: str, how: AdaptSettings, *, device: Device = "auto", live: bool = False) -> Adapting:
    """Load a model that adapts while it predicts.

    Args:
        path: a run folder, or the `model/` in it. how: with which method. live: whether pictures come one by one.

    Raises:
        UserInputError: as `load_predictor`; for a method that does not adapt to a stream, or not this network.
    """
    given, initial = load_predictor(path, device=device), read_initial(path)
    stream = {} if how.reset_every is None else {"reset_every": how.reset_every}
    own = {"device": device_here(device), "model": {"init": path}, "stream": stream}
    one = {"data": {"sources": [], **({"target_batch": 1} if live else {})}}
    outside = random_state()
    try:
        resolved = assemble([how.method], with_initial([own, one, how.layer()]), preset="paper")
        config = resolved.config
        plugins = build_plugins(resolved, initial)
        seed_everything(config.seed)
        classes = given.classes
        task = task_info(config, classes, ((), 0))
        model = plugins.build_model(config, len(classes), task)
        model.mean, model.std = given.statistics[0], given.statistics[1]  # type: ignore[assignment]
        refuse_other_forward(resolved.plugins, plugins, model, config.data.size)
        views = plugins.request_views(config)
        nothing = np.zeros(0, dtype=np.int64)
        empty = {side: SideInfo(nothing, nothing, ()) for side in SIDES}
        stages = plugins.plan(config, model, empty, task)
        stage = _stream_of(stages, how.method)
        # A model may be of a run that several processes shared.
        fabric = build_fabric(config.model_copy(update={"devices": 1, "num_nodes": 1}))
        module = cast("StepModule", fabric.setup_module(StepModule(model, plugins)))
        plugins.refresh(model, Progress(stage.name, "", 0, 0, ENDLESS), _no_dataset, task)
        online = Online(fabric, module, runners_of(fabric, stage, model), views, len(classes), config.stream)
        adapting = Adapting(given, online, settings_of(resolved), initial.sha256, how)
    finally:
        restore_random_state(outside)
    return adapting


def _stream_of(stages: Sequence[Stage], method: str) -> Stage:
    if len(stages) != 1 or not stages[0].stream:
        what = f"plugin {method!r} does not adapt to a stream while it predicts"
        raise UserInputError(what, where=WHERE, fix="tent, rotta, t3a and others of the test_time package do")
    return replace(stages[0], steps=ENDLESS, epochs=None)


def _no_dataset(side: Side) -> EncodedDataset:
    raise HookError(f"encode_dataset({side!r}): a stream that is predicted has no dataset")
