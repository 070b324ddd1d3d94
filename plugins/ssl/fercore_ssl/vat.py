"""VAT (Miyato et al., TPAMI 2018, Eqs 5-8 and Algorithm 1): agree with oneself under the worst small perturbation.

Defaults: USB, semilearn/algorithms/vat (weight 1, epsilon 6, entropy 0.06, rise over 40 % of the run). Epsilon is a
length in the space of the normalised image and belongs to 32 pixels; a perturbation of one strength for each pixel
grows with the side. USB's xi of 1e-6 is lost in float32 beside pixels of order 1, which leaves a direction of rounding
errors; here it is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fercore.losses import mean_entropy, soft_kl, to_float32
from fercore.models import Model, forward_without_bn_update
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Role, Settings
from fercore_ssl.base import SemiSupervised, SslSettings, logits, warm_up
from fercore_ssl.presets import COMMON


class VATSettings(SslSettings):
    """Settings of vat."""

    eps: float = Field(6.0, gt=0, description="length of the perturbation of a normalised image")
    xi: float = Field(1.0, gt=0, description="length of the step by which its direction is found")
    iterations: int = Field(1, ge=1, description="steps of the power method")
    ent_loss_ratio: float = Field(0.06, ge=0, description="weight of the entropy of the predictions")
    unsup_warm_up: float = Field(0.4, ge=0, le=1, description="share of the run over which lambda_u rises from 0")


class VAT(SemiSupervised):
    """Virtual adversarial training on one weak view, with entropy minimisation."""

    paper = "Miyato et al., TPAMI 2018"
    Settings: ClassVar[type[Settings]] = VATSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = COMMON
    views: ClassVar[tuple[str, ...]] = ("weak",)
    settings: VATSettings

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy with the labels, the divergence under the perturbation, and the entropy."""
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        clean = logits(encoded, "target", "weak")
        images = batch.target.images["weak"]
        # The clean prediction is a constant: the perturbed one is to move, not both towards each other.
        worst = self.settings.eps * self.direction(model, images, clean.detach())
        value = _divergence(to_float32(forward_without_bn_update(model, images + worst).logits["main"]), clean.detach())
        weight = self.settings.lambda_u * warm_up(clock, self.settings.unsup_warm_up)
        terms = [self._supervised(supervised), self._consistency(value, weight)]
        if self.settings.ent_loss_ratio:
            entropy, share = mean_entropy(clean), self.settings.ent_loss_ratio
            terms.append(LossTerm(f"{self.name}/entropy", Role.REGULARISER, entropy, share))
        return terms

    def direction(self, model: Model, images: Tensor, clean: Tensor) -> Tensor:
        """Return the direction of the worst perturbation, of length 1 for each image, f[B,3,H,W] (Eqs 7-8).

        Args:
            images: f[B,3,H,W]. clean: f[B,K], their logits; constant.
        """
        unit_step = _unit(torch.randn_like(images))
        for _ in range(self.settings.iterations):
            # Power method: the gradient of the divergence at xi d is near
            # the Hessian times d, whose dominant direction is sought.
            step = (self.settings.xi * unit_step).requires_grad_(True)
            gap = _divergence(to_float32(forward_without_bn_update(model, images + step).logits["main"]), clean)
            (gradient,) = torch.autograd.grad(gap, step)
            unit_step = _unit(gradient.detach())
        return unit_step


def _divergence(z: Tensor, clean: Tensor) -> Tensor:
    """Return KL(softmax(clean) || softmax(z)), mean over the batch."""
    return soft_kl(z, clean.softmax(-1), z.new_ones(len(z)))


def _unit(x: Tensor) -> Tensor:
    """Return each image's direction; 0 where it has none."""
    norm = torch.linalg.vector_norm(x.flatten(1), dim=1).view(-1, 1, 1, 1)
    return x / torch.where(norm > 0, norm, torch.ones_like(norm))
