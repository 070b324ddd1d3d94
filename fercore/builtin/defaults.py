"""Default implementations of the hooks a method need not own."""

from __future__ import annotations

import torch
from torch import Tensor

from fercore.config import RunConfig
from fercore.hooks import hookimpl
from fercore.hooks.plans import single_stage
from fercore.models import Model, build_classifier
from fercore.records.plan import Closure, Stage, StepLoss
from fercore.records.step import DomainBatch, Encoded


class Defaults:
    """One linear head, one stage, the model's own forward, one backward, and the mean of the branches' softmax."""

    @hookimpl(trylast=True)
    def build_model(self, config: RunConfig, num_classes: int) -> Model:
        """Build a whole backbone and a linear head, as they are loaded for a method that adapts a trained model."""
        return build_classifier(config.model, num_classes)

    @hookimpl(trylast=True)
    def plan(self, config: RunConfig) -> list[Stage]:
        """Train everything in one stage."""
        return [single_stage(config)]

    @hookimpl(trylast=True)
    def encode(self, model: Model, batch: DomainBatch, view: str) -> Encoded:
        """Run the model's forward."""
        encoded: Encoded = model(batch.images[view])
        return encoded

    @hookimpl(trylast=True)
    def backward(self, closure: Closure) -> StepLoss:
        """Run one forward and its backward."""
        return closure()

    @hookimpl(trylast=True)
    def predict(self, encoded: Encoded) -> Tensor:
        """Average the branches' class probabilities float[B,K]."""
        return torch.stack([logits.softmax(dim=1) for logits in encoded.logits.values()]).mean(dim=0)
