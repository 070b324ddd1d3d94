"""EATA (Niu et al., ICML 2022): TENT on reliable, new samples, near the source's weights where these matter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import anchored, log_probabilities, reliable_and_new, weighted_entropy
from fercore.models import norm_parameters
from fercore.plugin import (
    Closure,
    Forward,
    LossTerm,
    Model,
    Progress,
    Role,
    RunConfig,
    Settings,
    StepLoss,
    hookimpl,
)
from fercore_test_time.base import NormSettings, NormTrained, presets, said


class EataSettings(NormSettings):
    """Settings of eata."""

    margin: float = Field(0.4, gt=0, description="entropy below which a sample is reliable, times ln K")
    similarity: float = Field(
        0.5,
        gt=0,
        le=1,
        description="cosine to the mean prediction below which one is new; 0.05 in the paper, of K=1000",
    )
    beta: float = Field(2000.0, ge=0, description="weight of the distance to the source's weights; 0 = none")
    fisher_batches: int = Field(4, ge=1, description="batches at the start that tell how much each weight matters")


class Memory(nn.Module):
    """Running mean prediction f[K] (all 0 = none yet), batches so far, and source's value and importance of weights."""

    def __init__(self, num_classes: int, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.anchors = nn.ParameterList(nn.Parameter(w.detach().clone(), False) for w in weights.values())
        self.importance = nn.ParameterList(nn.Parameter(torch.zeros_like(w), False) for w in weights.values())


class EATA(NormTrained):
    """Minimises weighted entropy of reliable, new samples, and holds on to weights that matter to the source."""

    paper = "Niu et al., ICML 2022"
    training_parts = ("memory",)
    Settings: ClassVar[type[Settings]] = EataSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="sgd", lr=2.5e-4)
    settings: EataSettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Keep the source's weights, and what tells new samples."""
        super().prepare(model, config, num_classes)
        self.attach(model, Memory(num_classes, dict(self._trained(model))), "memory")

    def begin(self, model: Model) -> None:
        """Hold on to the weights as they are."""
        for anchor, (_, weight) in zip(self.part(model, Memory, "memory").anchors, self._trained(model), strict=True):
            anchor.data.copy_(weight)

    def _trained(self, model: Model) -> Iterator[tuple[str, Tensor]]:
        for name in norm_parameters(model, self.settings.affine_of, who=self.name):
            yield name, model.get_parameter(name)

    @hookimpl
    def loss(self, model: Model, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the terms of Eqs 2 and 8 where a sample is selected; at first what the importance is measured by."""
        how, memory = self.settings, self.part(model, Memory, "memory")
        log_p = log_probabilities(said(encoded).logits.values())
        if clock.forward == 0 and self._measures(memory):
            own = -log_p.gather(1, log_p.argmax(1, keepdim=True)).mean()
            return [LossTerm(f"{self.name}/own_class", Role.SUPERVISED, own)]
        margin = how.margin * math.log(log_p.shape[1])
        mean = memory.get_buffer("mean")
        selected = reliable_and_new(log_p, mean.to(log_p.dtype) if mean.any() else None, margin, how.similarity)
        if not selected.any():
            return []
        new = log_p.detach()[selected].exp().mean(0).to(mean.dtype)
        mean.copy_(0.9 * mean + 0.1 * new if mean.any() else new)
        terms = [LossTerm(f"{self.name}/entropy", Role.REGULARISER, weighted_entropy(log_p, selected, margin))]
        if how.beta:
            weights = [weight for _, weight in self._trained(model)]
            value = anchored(weights, memory.anchors, memory.importance)
            terms.append(LossTerm(f"{self.name}/anchor", Role.REGULARISER, value, how.beta))
        return terms

    @hookimpl
    def backward(self, model: Model, closure: Closure) -> StepLoss:
        """Measure the importance on the first batches (diagonal Fisher information, Eq 9), at the source's weights."""
        memory, first = self.part(model, Memory, "memory"), closure()
        measuring, batches = self._measures(memory), memory.get_buffer("batches")
        batches.add_(1)
        if not measuring:
            return first
        n = int(batches)
        with torch.no_grad():
            for importance, (_, weight) in zip(memory.importance, self._trained(model), strict=True):
                if weight.grad is not None:
                    importance.mul_((n - 1) / n).add_(weight.grad.square() / n)
        # The gradient was for measuring: nothing moves.
        return StepLoss(first.terms, has_gradient=False)

    def _measures(self, memory: Memory) -> bool:
        return self.settings.beta > 0 and int(memory.get_buffer("batches")) < self.settings.fisher_batches
