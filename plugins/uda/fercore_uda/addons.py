"""Add-ons around any method: class confusion, spectral penalisation, and sharpness-aware steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from fercore.losses import class_confusion, spectral_penalty, to_float32
from fercore.models import Model, restore_bn_stats, swap_bn_stats
from fercore.plugin import (
    Batch,
    Closure,
    Forward,
    LossTerm,
    Plugin,
    Role,
    Settings,
    StepLoss,
    ViewRequest,
    hookimpl,
)
from fercore_uda.base import SOURCE, TARGET, VIEW


class Addon(Plugin):
    """What these add-ons share."""

    kind = "addon"
    joint_forward = True

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""


class BspSettings(Settings):
    """Settings of bsp."""

    weight: float = Field(1e-4, ge=0, description="weight of the term")
    largest: int = Field(1, ge=1, description="singular values that are penalised")


class BatchSpectralPenalisation(Addon):
    """Penalises the largest singular values of either side's features; beside dann or cdan."""

    paper = "Chen et al., ICML 2019"
    Settings: ClassVar[type[Settings]] = BspSettings
    settings: BspSettings

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for the views that the methods of this package share."""
        return [ViewRequest("source", VIEW, "weak"), ViewRequest("target", VIEW, "weak")]

    @hookimpl
    def loss(self, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return the sum over sides, and over the branches of a method that has several."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            values = [
                spectral_penalty(to_float32(features), self.settings.largest)
                for side in (SOURCE, TARGET)
                for features in encoded[side].features.values()
            ]
            value = torch.stack(values).sum()
        return [LossTerm(f"{self.name}/spectrum", Role.REGULARISER, value, self.settings.weight)]


class MccTermSettings(Settings):
    """Settings of mcc_term."""

    weight: float = Field(1.0, ge=0, description="weight of the term")
    temperature: float = Field(2.5, gt=0, description="temperature of the predictions that are compared")


class MccTerm(Addon):
    """Minimum class confusion of the target's predictions beside another method, such as cdan."""

    paper = "Jin et al., ECCV 2020"
    Settings: ClassVar[type[Settings]] = MccTermSettings
    settings: MccTermSettings

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for the target's view that the methods of this package share."""
        return [ViewRequest("target", VIEW, "weak")]

    @hookimpl
    def loss(self, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return the mean over branches of the class confusion."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            logits = encoded[TARGET].logits.values()
            values = [class_confusion(to_float32(z), self.settings.temperature) for z in logits]
            value = torch.stack(values).mean()
        return [LossTerm(f"{self.name}/confusion", Role.REGULARISER, value, self.settings.weight)]


class SdatSettings(Settings):
    """Settings of sdat."""

    rho: float = Field(0.02, gt=0, description="how far the weights move up the task's loss")


class SDAT(Addon):
    """Takes the gradient of all terms where the task's loss is larger: smooth for the task, plain for the adversary."""

    paper = "Rangwani et al., ICML 2022"
    Settings: ClassVar[type[Settings]] = SdatSettings
    settings: SdatSettings

    def needs_whole_weights(self) -> str:
        """It moves the weights by itself."""
        return "it moves the weights along the gradient of all of them"

    @hookimpl
    def backward(self, model: Model, closure: Closure) -> StepLoss:
        """Move the network up the gradient of its own terms, and return the loss there; then move it back.

        Terms between domains (roles adversarial and alignment) do not say where to move, and parts beside the network,
        such as discriminators, stay where they are (section 4.1).
        """
        # The first forward finds the slope, the second takes the gradient where that leads.
        task = closure(lambda term: term.role not in (Role.ADVERSARIAL, Role.ALIGNMENT))
        # The closure has left gradients on what the phase trains; what has none stays where it is.
        network = (p for name, p in model.named_parameters() if not name.startswith("parts."))
        moved = [(p, p.grad, p.detach().clone()) for p in network if p.grad is not None]
        if not task.has_gradient or not moved:
            return closure()
        # A norm of norms: no copy of all gradients in one vector.
        norm = torch.stack([slope.norm() for _, slope, _ in moved]).norm() + 1e-12
        # The statistics that plain images are scored with are those of the weights themselves.
        statistics = swap_bn_stats(model)
        try:
            with torch.no_grad():
                for p, slope, _ in moved:
                    p.add_(self.settings.rho * slope / norm)
            return closure()
        finally:
            restore_bn_stats(model, statistics)
            with torch.no_grad():
                for p, _, old in moved:
                    # Copied back, not subtracted: rounding would let the weights drift from where they were.
                    p.copy_(old)
