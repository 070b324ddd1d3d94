"""SAR (Niu et al., ICLR 2023): the largest entropy nearby, of reliable samples; back to the source if it vanishes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from fercore.losses import log_entropy, log_probabilities
from fercore.plugin import (
    Closure,
    Forward,
    LossTerm,
    Model,
    Progress,
    Reset,
    Role,
    RunConfig,
    Settings,
    SizedByData,
    StepLoss,
    hookimpl,
)
from fercore_test_time.base import NormSettings, NormTrained, presets, said

OF_IMAGENET = math.log(1000)
"""Thresholds of the paper are of 1000 classes: an entropy of K counts as its share of ln K."""


class SarSettings(NormSettings):
    """Settings of sar."""

    margin: float = Field(0.4, gt=0, description="entropy below which a sample is reliable, times ln K")
    rho: float = Field(0.05, gt=0, description="how far the weights move up the loss")
    reset_below: float = Field(0.2, ge=0, description="running loss of 1000 classes below which weights go back")
    frozen: tuple[str, ...] = Field(
        ("layer4", "blocks.9", "blocks.10", "blocks.11", "norm"), description="modules of the backbone that stay"
    )


class SAR(NormTrained):
    """Minimises the entropy of reliable samples where it is sharp; starts again when it has all but vanished."""

    paper = "Niu et al., ICLR 2023"
    training_parts = ("state",)
    Settings: ClassVar[type[Settings]] = SarSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="sgd", lr=2.5e-4)
    settings: SarSettings

    def untouched(self) -> tuple[str, ...]:
        """Return the last layers."""
        return self.settings.frozen

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Keep the running loss (-1 = none yet), and which samples the first forward selected."""
        super().prepare(model, config, num_classes)
        least = self.settings.reset_below * math.log(num_classes) / OF_IMAGENET
        numbers = {"running": torch.tensor(-1.0), "least": torch.tensor(least)}
        buffers = {name: number.double() for name, number in numbers.items()}
        self.attach(model, SizedByData({**buffers, "selected": torch.zeros(0, dtype=torch.bool)}))

    @hookimpl
    def loss(self, model: Model, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the mean entropy of reliable samples (Eq 2); in the second forward, of those that still are."""
        log_p, state = log_probabilities(said(encoded).logits.values()), self.part(model, SizedByData)
        h = log_entropy(log_p)
        selected = h.detach() < self.settings.margin * math.log(log_p.shape[1])
        if clock.forward:
            selected = selected & state.get_buffer("selected")
        state.put("selected", selected)
        return [LossTerm(f"{self.name}/entropy", Role.REGULARISER, h[selected].mean())] if selected.any() else []

    @hookimpl
    def backward(self, model: Model, closure: Closure) -> StepLoss:
        """Take the gradient at w + rho g / |g| (Eqs 3 and 4)."""
        first = closure()
        if not first.has_gradient:
            return first
        moved = [(p, p.grad, p.detach().clone()) for p in model.parameters() if p.grad is not None]
        norm = torch.stack([slope.norm() for _, slope, _ in moved]).norm() + 1e-12
        with torch.no_grad():
            for p, slope, _ in moved:
                p.add_(slope * (self.settings.rho / norm))
        second = closure()
        with torch.no_grad():
            for p, _, old in moved:
                p.copy_(old)
        if second.has_gradient:
            running, new = self.part(model, SizedByData).get_buffer("running"), second.terms[f"{self.name}/entropy"]
            running.copy_(torch.tensor(new) if running < 0 else 0.9 * running + 0.1 * new)
        return second

    @hookimpl
    def after_step(self, model: Model) -> Reset | None:
        """Ask for the source's weights where the running loss has all but vanished (section 3.3)."""
        running, least = (float(self.part(model, SizedByData).get_buffer(name)) for name in ("running", "least"))
        below = 0 <= running < least
        return Reset(f"{self.name}: running entropy vanished") if below else None
