"""FixMatch (Sohn et al., NeurIPS 2020, Eqs 3-4): the strong view learns the weak view's class where it is sure.

Defaults: USB, semilearn/algorithms/fixmatch and config/usb_cv/fixmatch (p_cutoff 0.95, T 0.5, hard labels, weight 1).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fercore.losses import confident
from fercore.models import Model
from fercore.plugin import Batch, Forward, Settings
from fercore_ssl.base import CutoffSettings, ThresholdMethod


class FixMatch(ThresholdMethod):
    """Pseudo labels of the weak view for the strong one, above one fixed threshold."""

    paper = "Sohn et al., NeurIPS 2020"
    Settings: ClassVar[type[Settings]] = CutoffSettings
    settings: CutoffSettings

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 where the largest probability reaches the threshold, else 0."""
        return confident(probs, self.settings.p_cutoff), probs
