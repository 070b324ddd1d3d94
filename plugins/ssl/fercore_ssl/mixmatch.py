"""MixMatch (Berthelot et al., NeurIPS 2019, Eqs 2-13): sharpened mean predictions, and MixUp of all samples.

Defaults: USB, semilearn/algorithms/mixmatch and config/usb_cv/mixmatch (T 0.5, alpha 0.5, weight 10, rise over 40 %);
one mixing factor a step, as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.distributions import Beta

from fercore.losses import probability_mse, sharpen, to_float32
from fercore.models import Model, forward_without_bn_update
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Settings, hookimpl
from fercore_ssl.base import SemiSupervised, SslSettings, logits, warm_up
from fercore_ssl.presets import COMMON


class MixMatchSettings(SslSettings):
    """Settings of mixmatch."""

    lambda_u: float = Field(10.0, ge=0, description="weight of the unlabelled term")
    T: float = Field(0.5, gt=0, description="temperature of the sharpening")
    mixup_alpha: float = Field(0.5, ge=0, description="of the Beta distribution of MixUp; 0 = no mixing")
    unsup_warm_up: float = Field(0.4, ge=0, le=1, description="share of the run over which lambda_u rises from 0")


class MixMatch(SemiSupervised):
    """Learns labels and guessed labels of mixed images."""

    paper = "Berthelot et al., NeurIPS 2019"
    Settings: ClassVar[type[Settings]] = MixMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = COMMON
    views: ClassVar[tuple[str, ...]] = ("weak", "weak2")
    settings: MixMatchSettings

    @hookimpl
    def pseudo_label(self, encoded: Forward) -> PseudoLabels:
        """Guess labels: the mean prediction of two weak views, sharpened (Eqs 6-7); every sample counts."""
        mean = (logits(encoded, "target", "weak").softmax(-1) + logits(encoded, "target", "weak2").softmax(-1)) / 2
        probs = sharpen(mean, self.settings.T)
        return PseudoLabels(probs.argmax(-1), probs.new_ones(len(probs)), probs)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy of the mixed labelled images, squared difference of the mixed unlabelled ones."""
        assert pseudo is not None
        images = torch.cat([batch.source.images["weak"], batch.target.images["weak"], batch.target.images["weak2"]])
        known = F.one_hot(batch.source.labels, pseudo.probs.shape[1]).to(pseudo.probs.dtype)
        images, labels = mix(images, torch.cat([known, pseudo.probs, pseudo.probs]), self.settings.mixup_alpha)
        n = len(batch.source)
        # The mixed labelled images set the batch statistics, as in USB; the others leave them alone.
        mine = to_float32(model(images[:n]).logits["main"])
        others = to_float32(forward_without_bn_update(model, images[n:]).logits["main"])
        weight = self.settings.lambda_u * warm_up(clock, self.settings.unsup_warm_up)
        return [
            self._supervised(F.cross_entropy(mine, labels[:n])),
            self._consistency(probability_mse(others, labels[n:]), weight),
        ]


def mix(images: Tensor, labels: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Mix every sample with another: m x + (1 - m) x' with m = max(lambda, 1 - lambda) (Eqs 8-11).

    Args:
        images: f[N,3,H,W]. labels: f[N,K]. alpha: lambda is drawn from Beta(alpha, alpha); 0 = 1.
    """
    if alpha == 0:
        return images, labels
    # Beta draws on the CPU: the generator of the run decides, whatever the device.
    drawn = float(Beta(torch.tensor(alpha), torch.tensor(alpha)).sample())
    # The larger part is a sample's own, so that row i of the mixture still belongs to side and label of row i.
    factor = max(drawn, 1 - drawn)
    order = torch.randperm(len(images)).to(images.device)
    return torch.lerp(images[order], images, factor), torch.lerp(labels[order], labels, factor)
