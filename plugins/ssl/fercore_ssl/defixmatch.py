"""DeFixMatch (Schmutz et al., ICLR 2023, Eq 4): FixMatch less the same term on labelled samples.

Without bias where labelled and unlabelled samples share a distribution, and only there. Defaults: USB,
semilearn/algorithms/defixmatch and config/usb_cv/defixmatch (p_cutoff 0.95, T 0.5, hard labels, weight 0.5).
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from fercore.losses import confident, weighted_cross_entropy
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Settings
from fercore_ssl.base import CutoffSettings, logits, tempered
from fercore_ssl.fixmatch import FixMatch


class DeFixMatchSettings(CutoffSettings):
    """Settings of defixmatch."""

    lambda_u: float = Field(0.5, ge=0, description="weight of the difference")


class DeFixMatch(FixMatch):
    """FixMatch whose pseudo labels count as much less as they would on labelled samples."""

    paper = "Schmutz et al., ICLR 2023"
    Settings: ClassVar[type[Settings]] = DeFixMatchSettings
    source_views: ClassVar[tuple[str, ...]] = ("weak", "strong")
    settings: DeFixMatchSettings

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy of both labelled views, and FixMatch's term less its like on labelled samples."""
        unlabelled = super().terms(model, batch, encoded, pseudo, clock)[1]
        weak, strong = (logits(encoded, "source", view) for view in ("weak", "strong"))
        supervised = (F.cross_entropy(weak, batch.source.labels) + F.cross_entropy(strong, batch.source.labels)) / 2
        probs = weak.detach().softmax(-1)
        targets = probs.argmax(-1) if self.hard else tempered(probs, self.settings.T)
        sure = confident(probs, self.settings.p_cutoff)
        labelled = weighted_cross_entropy(strong, targets, sure.to(probs.dtype))
        return [self._supervised(supervised), self._consistency(unlabelled.value - labelled)]
