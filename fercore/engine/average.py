"""The moving average of a run's weights (train.ema): what is reported, and never what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fercore.models import Model
from fercore.models.shards import divided, own_part


class WeightAverage:
    """An exponential moving average of a model's parameters.

    After every step, average = decay * average + (1 - decay) * weights; the first step is taken over as it is. What
    plugins keep as buffers in `model.parts` is never averaged: the copy has what the model has. Parameters that a
    plugin sets as an epoch begins are taken over as they are, and averaged from there.

    Args:
        model: the network on its device. decay: in (0, 1).
        buffers: batch statistics of the network are the model's ("copy") or averaged as well ("average").
    """

    def __init__(self, model: Model, decay: float, buffers: Literal["copy", "average"]) -> None:
        self.decay, self.buffers = decay, buffers
        rule = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(model, multi_avg_fn=rule)
        self.model.requires_grad_(False)

    @property
    def model(self) -> Model:
        """The averaged network, with the plugins' buffers as of the last `follow`."""
        return cast("Model", self._averaged.module)

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take in the weights after a step."""
        # The first step takes everything over as it is, batch statistics included.
        mixed = self.buffers == "average" and int(self._averaged.n_averaged) > 0
        old = {name: buffer.clone() for name, buffer in _statistics(self.model)} if mixed else {}
        self.follow(model)
        # It averages parameters, and copies the buffers over: what was there before is mixed in again below.
        self._averaged.update_parameters(cast("nn.Module", _Parts(model)))
        for name, before in old.items():
            self.model.get_buffer(name).lerp_(before, self.decay)

    @torch.no_grad()
    def follow(self, model: Model) -> Model:
        """Give the averaged network the plugins' buffers as they are now, whatever their shapes, and return it."""
        for name, buffer in model.named_buffers():
            # Batch statistics of the network go by `buffers`, and `update` sees to them.
            if not name.startswith("parts."):
                continue
            owner, _, last = name.rpartition(".")
            module = self.model.get_submodule(owner)
            here = module.get_buffer(last)
            # Buffers that follow the data (`SizedByData`) change their shape when an epoch begins.
            if here.shape == buffer.shape:
                here.copy_(buffer)
            else:
                module.register_buffer(last, buffer.clone(), persistent=last not in module._non_persistent_buffers_set)
        return self.model

    @torch.no_grad()
    def adopt(self, model: Model, before: Sequence[Tensor]) -> None:
        """Take over, as they are, the parameters that a plugin wrote by itself: those that differ from `before`.

        Args:
            model: the network in training. before: copies of its parameters, in their order.
        """
        for old, now, here in zip(before, model.parameters(), self.model.parameters(), strict=True):
            # Training has not run between the two: what differs, a hook wrote. Who writes whole weights needs them.
            if not divided(now) and not torch.equal(old, now):
                here.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged network and the number of steps in it."""
        return {"steps": int(self._averaged.n_averaged), "model": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        # The number decides whether the next step is taken over or averaged.
        self._averaged.n_averaged.fill_(state["steps"])
        self.model.load_state_dict(state["model"])


class _Parts:
    """A network as its average looks at it: where processes divide its weights each averages its parts."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def parameters(self) -> Iterator[Tensor]:
        """Yield what this process has of each parameter."""
        return (own_part(p) for p in self._model.parameters())

    def buffers(self) -> Iterator[Tensor]:
        """Yield the buffers."""
        return self._model.buffers()


def _statistics(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the network's floating-point buffers, those of plugins left out, and constants, which no checkpoint has."""
    saved = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and name in saved and not name.startswith("parts."):
            yield name, buffer
