"""The Pi model (Laine and Aila, ICLR 2017, Algorithm 1): two passes over a sample agree.

Defaults: USB, semilearn/algorithms/pimodel and config/usb_cv/pimodel (weight 10, rise over 40 % of the run).
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fercore.losses import probability_mse
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Settings, hookimpl
from fercore_ssl.base import SemiSupervised, SslSettings, logits, warm_up


class PiModelSettings(SslSettings):
    """Settings of pi_model."""

    lambda_u: float = Field(10.0, ge=0, description="weight of the unlabelled term")
    unsup_warm_up: float = Field(0.4, ge=0, le=1, description="share of the run over which lambda_u rises from 0")


class PiModel(SemiSupervised):
    """The second weak view is drawn to the prediction for the first."""

    paper = "Laine and Aila, ICLR 2017"
    Settings: ClassVar[type[Settings]] = PiModelSettings
    views: ClassVar[tuple[str, ...]] = ("weak", "weak2")
    settings: PiModelSettings

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward) -> PseudoLabels:
        """Return the first view's prediction; every sample counts."""
        probs = self.target(model, batch, encoded)
        return PseudoLabels(probs.argmax(-1), probs.new_ones(len(probs)), probs)

    def target(self, model: Model, batch: Batch, encoded: Forward) -> Tensor:
        """Return the probabilities f[B,K] that the second view is drawn to."""
        return logits(encoded, "target", "weak").softmax(-1)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy with the labels, and the squared difference of the predictions."""
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        assert pseudo is not None
        value = probability_mse(logits(encoded, "target", "weak2"), pseudo.probs.detach())
        weight = self.settings.lambda_u * warm_up(clock, self.settings.unsup_warm_up)
        return [self._supervised(supervised), self._consistency(value, weight)]
