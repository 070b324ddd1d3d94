"""MEMO (Zhang et al., NeurIPS 2022): each image by a network that has just been made to agree on views of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from fercore.losses import log_probabilities, marginal_entropy
from fercore.plugin import DomainBatch, Encoded, Model, Progress, Settings
from fercore_test_time.base import STREAM, TestTime
from fercore_test_time.students import weights_of
from fercore_test_time.views import face_views


class MemoSettings(Settings):
    """Settings of memo."""

    views: int = Field(32, ge=2, description="of each image; the cost grows with it")
    lr: float = Field(2.5e-4, gt=0, description="of the one step")
    optimiser: Literal["sgd", "adamw"] = Field("sgd", description="adamw: for layer normalisation, with lr=1e-5")
    weight_decay: float = Field(0.0, ge=0, description="0.01 with adamw in the paper")


class MEMO(TestTime):
    """Takes one step on the entropy of the mean over views of an image, answers, and goes back."""

    paper = "Zhang et al., NeurIPS 2022"
    runs_network = True
    Settings: ClassVar[type[Settings]] = MemoSettings
    settings: MemoSettings

    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Return the answer to each image after the step for it (Algorithm 1); the network's weights stay."""
        each = [self._one(model, image[None]) for image in batch.images[STREAM]]
        features = {name: torch.cat([one.features[name] for one in each]) for name in encoded.features}
        return Encoded(features, {name: torch.cat([one.logits[name] for one in each]) for name in encoded.logits})

    def _one(self, model: Model, image: Tensor) -> Encoded:
        views = face_views(model, image.expand(self.settings.views, -1, -1, -1))
        with torch.enable_grad():
            weights = {name: weight.detach().requires_grad_() for name, weight in weights_of(model)}
            seen: Encoded = functional_call(model, weights, (views,))
            loss = marginal_entropy(log_probabilities(seen.logits.values()))
            slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        with torch.no_grad():
            moved = self._step(weights, [torch.zeros(()) if slope is None else slope for slope in slopes])
            answer: Encoded = functional_call(model, moved, (image,))
            return answer

    def _step(self, weights: Mapping[str, Tensor], slopes: list[Tensor]) -> dict[str, Tensor]:
        """Return the weights after an optimiser's first step."""
        how, moved = self.settings, {}
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            if how.optimiser == "adamw":
                # Both moments of a first step are the gradient's own, once their bias is taken out.
                moved[name] = weight * (1 - how.lr * how.weight_decay) - how.lr * slope / (slope.abs() + 1e-8)
            else:
                moved[name] = weight - how.lr * (slope + how.weight_decay * weight)
        return moved
