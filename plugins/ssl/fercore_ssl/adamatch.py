"""AdaMatch (Berthelot et al., ICLR 2022, sections 3.1-3.3): alignment to the labelled predictions, a threshold relative
to theirs, and random interpolation of logits.

Defaults: USB, semilearn/algorithms/adamatch (p_cutoff 0.95, momentum 0.999, T 0.5, hard labels, no interpolation). The
paper's own interpolation of the labelled logits, with and without the unlabelled samples in the batch, is a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import Model, forward_without_bn_update
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Settings
from fercore_ssl.alignment import Alignment
from fercore_ssl.base import CutoffSettings, ThresholdMethod, logits
from fercore_ssl.presets import presets


class AdaMatchSettings(CutoffSettings):
    """Settings of adamatch."""

    ema_p: float = Field(0.999, ge=0, lt=1, description="momentum of the running class distributions")
    dist_align: bool = Field(True, description="align the predictions to those for labelled samples")
    interpolate: bool = Field(False, description="labelled logits between those alone and with all")


class AdaMatch(ThresholdMethod):
    """A threshold relative to the mean confidence on the labelled samples of the step."""

    paper = "Berthelot et al., ICLR 2022"
    Settings: ClassVar[type[Settings]] = AdaMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("adamatch", quick={"ema_p": 0.9})
    settings: AdaMatchSettings

    def state(self, num_classes: int) -> nn.Module:
        """Keep the running class distributions."""
        return Alignment(num_classes)

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 where the aligned confidence reaches p_cutoff times the mean labelled one, and aligned labels."""
        state = self.part(model, Alignment)
        labelled = logits(encoded, "source", "weak").softmax(-1)
        aligned = state.align(probs, self.settings.ema_p, labelled) if self.settings.dist_align else probs
        # Relative: where labelled samples are not sure either, unlabelled ones need less to be trusted.
        level = self.settings.p_cutoff * labelled.amax(-1).mean()
        return aligned.amax(-1) >= level, aligned

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return FixMatch's terms; with interpolation, the labelled one on mixed logits."""
        terms = super().terms(model, batch, encoded, pseudo, clock)
        if not self.settings.interpolate:
            return terms
        sides = (batch.source.images["weak"], batch.target.images["weak"], batch.target.images["strong"])
        # The joint batch is one forward of its own; its statistics, of both sides mixed, are not kept.
        joint = to_float32(forward_without_bn_update(model, torch.cat(sides)).logits["main"])[: len(batch.source)]
        alone = logits(encoded, "source", "weak")
        # A weight of its own for each logit.
        mixed = torch.lerp(alone, joint, torch.rand_like(alone))
        return [self._supervised(F.cross_entropy(mixed, batch.source.labels)), *terms[1:]]
