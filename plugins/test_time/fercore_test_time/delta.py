"""DELTA (Zhao et al., ICLR 2023): batch statistics corrected to those of the stream, and rare classes weighed up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fercore.losses import log_entropy, log_probabilities, rare_first
from fercore.models import NormKind, NormRule, moments, norm_parameters, normalised, of_channels, running, scaled
from fercore.plugin import Forward, LossTerm, Model, Progress, Role, RunConfig, Settings, hookimpl
from fercore_test_time.base import NormTrained, presets, said


class DeltaSettings(Settings):
    """Settings of delta."""

    affine_of: NormKind = Field("any_norm", description="batch_norm, or any_norm: layer and group norms as well")
    start: Literal["batch", "source"] = Field(
        "source", description="statistics of the stream begin as the source's, or as the first batch's, as published"
    )
    keep: float = Field(0.95, ge=0, lt=1, description="share of the stream's statistics that a batch leaves")
    keep_shares: float = Field(0.95, ge=0, lt=1, description="the same of the class shares")
    select: bool = Field(False, description="weigh by e^(ln K / 2 - H) and leave out weights below 1, as EATA")


class State(nn.Module):
    """Batches so far, and the running class shares f[K]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("shares", torch.full((num_classes,), 1 / num_classes, dtype=torch.float64))


class DELTA(NormTrained):
    """TENT with batch statistics renormalised to the stream's (TBR) and samples weighed by their class (DOT)."""

    paper = "Zhao et al., ICLR 2023"
    training_parts = ("state",)
    Settings: ClassVar[type[Settings]] = DeltaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="sgd", lr=2.5e-4)
    settings: DeltaSettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Keep the class shares."""
        norm_parameters(model, self.settings.affine_of, who=self.name)
        self.attach(model, State(num_classes))

    def rule(self, model: Model, n: int, clock: Progress) -> NormRule | None:
        """Return test-time batch renormalisation (section 3.1), whose statistics are the layer's running ones."""
        fresh = int(self.part(model, State).get_buffer("batches")) == 0 and self.settings.start == "batch"

        def rule(norm: _BatchNorm, x: Tensor) -> Tensor:
            if x.numel() <= x.shape[1]:
                return normalised(norm, x, *running(norm))
            batch = moments(x.detach())
            mean, deviation = batch.mean, (batch.variance + norm.eps).sqrt()
            old = running(norm)
            old_mean, old_deviation = (mean, deviation) if fresh else (old[0], (old[1] + norm.eps).sqrt())
            scale, shift = deviation / old_deviation, (mean - old_mean) / old_deviation
            unit = F.batch_norm(x, None, None, training=True, eps=norm.eps)
            new = torch.lerp(deviation, old_deviation, self.settings.keep)
            # The layer adds eps under the root; the stream's deviations have it already.
            norm.running_mean = torch.lerp(mean, old_mean, self.settings.keep)
            norm.running_var = (new.square() - norm.eps).clamp_min(0)
            return scaled(norm, unit * of_channels(scale, x) + of_channels(shift, x))

        return rule

    @hookimpl
    def loss(self, model: Model, encoded: Forward) -> Sequence[LossTerm]:
        """Return the entropy weighed by class (section 3.2), and move the class shares."""
        log_p, state = log_probabilities(said(encoded).logits.values()), self.part(model, State)
        h, shares = log_entropy(log_p), state.get_buffer("shares")
        weights = rare_first(log_p.detach().argmax(1), shares.to(h.dtype))
        used = torch.ones_like(h, dtype=torch.bool)
        if self.settings.select:
            sure = (0.5 * math.log(log_p.shape[1]) - h.detach()).exp()
            weights, used = weights * sure, sure > 1
        shares.copy_(torch.lerp(log_p.detach().exp().mean(0).to(shares.dtype), shares, self.settings.keep_shares))
        state.get_buffer("batches").add_(1)
        if not used.any():
            return []
        return [LossTerm(f"{self.name}/entropy", Role.REGULARISER, (weights * h)[used].mean())]
