"""Pseudo-Label (Lee, ICML workshop 2013, Eqs 15-16): a sample's likeliest class is its label where it is sure.

Defaults: USB, semilearn/algorithms/pseudolabel and config/usb_cv/pseudolabel (p_cutoff 0.95, rise over 40 % of
the run).
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from fercore.losses import confident, weighted_cross_entropy
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Settings, hookimpl
from fercore_ssl.base import SemiSupervised, SslSettings, logits, warm_up


class PseudoLabelSettings(SslSettings):
    """Settings of pseudo_label."""

    p_cutoff: float = Field(0.95, gt=0, le=1, description="least probability of a pseudo label")
    unsup_warm_up: float = Field(0.4, ge=0, le=1, description="share of the run over which lambda_u rises from 0")


class PseudoLabel(SemiSupervised):
    """Self-training on one weak view."""

    paper = "Lee, ICML workshop 2013"
    Settings: ClassVar[type[Settings]] = PseudoLabelSettings
    views: ClassVar[tuple[str, ...]] = ("weak",)
    settings: PseudoLabelSettings

    @hookimpl
    def pseudo_label(self, encoded: Forward) -> PseudoLabels:
        """Label the samples whose largest probability reaches the threshold."""
        probs = logits(encoded, "target", "weak").softmax(-1)
        return PseudoLabels(probs.argmax(-1), confident(probs, self.settings.p_cutoff).to(probs.dtype), probs)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy with the labels, and with the pseudo labels."""
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        assert pseudo is not None
        value = weighted_cross_entropy(logits(encoded, "target", "weak"), pseudo.labels, pseudo.weight)
        weight = self.settings.lambda_u * warm_up(clock, self.settings.unsup_warm_up)
        return [self._supervised(supervised), self._consistency(value, weight)]
