"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, Eqs 1-2): agree with the moving average of one's own weights.

Defaults: USB, semilearn/algorithms/meanteacher and config/usb_cv/meanteacher (weight 50, decay 0.999, rise over 40 %).
The teacher's batch normalisation uses the batch, as in USB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from fercore.losses import to_float32
from fercore.models import Model, SizedByData, forward_without_bn_update
from fercore.plugin import Batch, Forward, Settings, hookimpl
from fercore_ssl.pi_model import PiModel, PiModelSettings
from fercore_ssl.presets import presets


class MeanTeacherSettings(PiModelSettings):
    """Settings of mean_teacher."""

    lambda_u: float = Field(50.0, ge=0, description="weight of the unlabelled term")
    decay: float = Field(0.999, gt=0, lt=1, description="of the teacher's average")


class MeanTeacher(PiModel):
    """The second weak view is drawn to the teacher's prediction for the first."""

    paper = "Tarvainen and Valpola, NeurIPS 2017"
    Settings: ClassVar[type[Settings]] = MeanTeacherSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("mean_teacher", quick={"decay": 0.9})
    settings: MeanTeacherSettings

    def state(self, num_classes: int) -> nn.Module:
        """Keep the teacher's parameters in one row: add-ons may give the network more than it is built with."""
        return SizedByData({"weights": torch.zeros(0)})

    def target(self, model: Model, batch: Batch, encoded: Forward) -> Tensor:
        """Return the teacher's probabilities for the first view."""
        with torch.no_grad():
            answer = forward_without_bn_update(model, batch.target.images["weak"], self._teacher(model))
        return to_float32(answer.logits["main"]).softmax(-1)

    @hookimpl
    def after_step(self, model: Model) -> None:
        """Move the teacher towards the network."""
        self._row(model).lerp_(parameters_to_vector(model.parameters()), 1 - self.settings.decay)

    def _teacher(self, model: Model) -> dict[str, Tensor]:
        """Return the teacher's parameters by name."""
        named = dict(model.named_parameters())
        sizes = [p.numel() for p in named.values()]
        parts = torch.split(self._row(model), sizes)  # type: ignore[no-untyped-call]
        return {name: row.view_as(p) for (name, p), row in zip(named.items(), parts, strict=True)}

    def _row(self, model: Model) -> Tensor:
        state = self.part(model, SizedByData)
        # At the first use, when add-ons have attached what they have: the teacher starts as the student.
        if not len(state.get_buffer("weights")):
            state.put("weights", parameters_to_vector(model.parameters()))
        return state.get_buffer("weights")
