"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, Eqs 1-2): agree with the moving average of one's own weights.

Defaults: USB, semilearn/algorithms/meanteacher and config/usb_cv/meanteacher (weight 50, decay 0.999, rise over 40 %).
The teacher's batch normalisation uses the batch, as in USB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import Model, Teacher
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

    def needs_whole_weights(self) -> str:
        """It averages the weights by itself."""
        return "its teacher is an average of all weights"

    def state(self, num_classes: int) -> nn.Module:
        """Keep the teacher."""
        return Teacher()

    def target(self, model: Model, batch: Batch, encoded: Forward) -> Tensor:
        """Return the teacher's probabilities for the first view."""
        answer = self.part(model, Teacher).encode(model, batch.target.images["weak"])
        return to_float32(answer.logits["main"]).softmax(-1)

    @hookimpl
    def after_step(self, model: Model) -> None:
        """Move the teacher towards the network."""
        self.part(model, Teacher).follow(model, self.settings.decay)
