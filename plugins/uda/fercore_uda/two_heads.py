"""Methods with two heads that part over the target while the features bring them together: MCD, SWD, STAR, SymNets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fercore.losses import (
    class_balance,
    half_mass,
    joint_entropy,
    mean_difference,
    reverse_gradient,
    sliced_wasserstein,
    to_float32,
)
from fercore.models import Model, RowNorm
from fercore.plugin import (
    Batch,
    Encoded,
    Forward,
    LossTerm,
    ParamGroup,
    Phase,
    Progress,
    Role,
    RunConfig,
    Settings,
    Stage,
    TaskInfo,
    hookimpl,
    single_stage,
)
from fercore_uda.base import SOURCE, VIEW, Adaptation, Pair, TermSettings, mean_of
from fercore_uda.presets import presets

FIT, PART, MEET = "fit", "part", "meet"
"""Phases: everything learns the source; the heads part over the target; the features bring them together."""


class TwoHeadSettings(TermSettings):
    """Settings of methods with two heads."""

    steps: int = Field(4, ge=1, description="of the features, on each batch")
    one_step: bool = Field(False, description="one phase with a reversed gradient in place of three")
    hidden: int = Field(1024, ge=0, description="width of the heads' two hidden layers; 0 = linear heads")
    dropout: float = Field(0.5, ge=0, lt=1, description="in front of either hidden layer")
    balance: float = Field(
        0.0, ge=0, description="weight of even classes on the target while heads learn; 0.01 for VisDA"
    )


def _presets(name: str) -> dict[str, Mapping[str, Any]]:
    layers = presets(name, paper={"optim": {"lr": 1e-3, "backbone_multiplier": 1.0, "schedule": "constant"}})
    return {key: {name: {"bottleneck": 0, "hidden": 0}} if key != "paper" else layer for key, layer in layers.items()}


class MCD(Adaptation):
    """Two heads part over the target, and the features bring them together, in turns."""

    paper = "Saito et al., CVPR 2018"
    role = Role.ADVERSARIAL
    term_name = "disagreement"
    of_target = True
    Settings: ClassVar[type[Settings]] = TwoHeadSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _presets("mcd")

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Lay out three phases of one optimiser; or one."""
        stage = single_stage(config)
        if self.settings.one_step:
            return [stage]
        fit = replace(stage.phases[0], name=FIT)
        clip = config.optim.clip_grad_norm
        heads = ParamGroup(("heads.", f"parts.{self.part_name('second')}"))
        # One optimiser: a parameter keeps its momentum through all steps of a batch, as in the released code.
        part = Phase(PART, (heads,), clip_grad_norm=clip, shares=FIT)
        # Without the heads: they are to stay apart while features move.
        network = ParamGroup(("backbone.", "branches."))
        meet = Phase(MEET, (network,), clip_grad_norm=clip, shares=FIT, repeats=self.settings.steps)
        return [replace(stage, phases=(fit, part, meet))]

    def head(self, width: int, num_classes: int, dropout: float) -> nn.Module:
        """Return a head with two hidden layers, or a linear one."""
        hidden = self.settings.hidden
        if not hidden:
            return super().head(width, num_classes, dropout)
        layers: list[nn.Module] = []
        for inputs in (width, hidden):
            layers += [nn.Dropout(self.settings.dropout), nn.Linear(inputs, hidden), RowNorm(hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden, num_classes))

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the second head."""
        return {**super().parts(width, task), "second": self.head(width, len(task.classes), 0.0)}

    def second(self, model: Model, features: Tensor) -> Tensor:
        """Return the second head's logits f[B,K] of features f[B,D]."""
        logits: Tensor = self.part(model, nn.Module, "second")(features)
        return logits

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return how far predictions f[B,K] of both heads lie apart, a scalar."""
        return mean_difference(first, second)

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the heads' distance on the target; none while everything learns the source."""
        return [] if clock.phase == FIT else super().align(model, batch, encoded, clock)

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the distance for the features, and minus it for the heads."""
        if self.settings.one_step:
            rows = reverse_gradient(pair.y)
            # Heads descend minus the distance; behind the reversal the features descend the distance.
            return -self.distance(model.heads["main"](rows).softmax(-1), self.second(model, rows).softmax(-1))
        value = self.distance(pair.zy.softmax(-1), self.second(model, pair.y).softmax(-1))
        return -value if clock.phase == PART else value

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return both heads' cross-entropy on the source, where heads learn."""
        if clock.phase == MEET:
            return []
        terms = list(super().loss(model, batch, encoded, clock))
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            second = self.second(model, to_float32(encoded[SOURCE].features["main"]))
            value = self.supervised(second, batch.source)
            terms.append(LossTerm(f"{self.name}/second_cross_entropy", Role.SUPERVISED, value))
            if self.settings.balance:
                target = encoded["target", VIEW]
                both = (target.logits["main"], self.second(model, to_float32(target.features["main"])))
                value = torch.stack([class_balance(to_float32(z).softmax(-1)) for z in both]).sum()
                terms.append(LossTerm(f"{self.name}/balance", Role.REGULARISER, value, self.settings.balance))
        return terms

    @hookimpl
    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Average both heads' probabilities."""
        first, second = encoded.logits["main"], self.second(model, to_float32(encoded.features["main"]))
        return (to_float32(first).softmax(-1) + second.softmax(-1)) / 2


class SwdSettings(TwoHeadSettings):
    """Settings of swd."""

    directions: int = Field(128, ge=1, description="random projections of a batch's predictions")


class SWD(MCD):
    """MCD with the sliced Wasserstein distance of both heads' predictions."""

    paper = "Lee et al., CVPR 2019"
    Settings: ClassVar[type[Settings]] = SwdSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _presets("swd")

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the sliced Wasserstein distance."""
        return sliced_wasserstein(first, second, self.settings.directions)


class STAR(MCD):
    """MCD whose heads are drawn again from one Gaussian of heads at every use."""

    paper = "Lu et al., CVPR 2020"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = _presets("star")

    def head(self, width: int, num_classes: int, dropout: float) -> nn.Module:
        """Return MCD's head with a last layer that is drawn."""
        if not self.settings.hidden:
            return DrawnLinear(width, num_classes)
        hidden = list(super().head(width, num_classes, dropout).children())[:-1]
        return nn.Sequential(*hidden, DrawnLinear(self.settings.hidden, num_classes))

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return nothing beside the network: the second head is another draw of the first."""
        return Adaptation.parts(self, width, task)

    def second(self, model: Model, features: Tensor) -> Tensor:
        """Return the logits of another draw; in evaluation of the mean head."""
        logits: Tensor = model.heads["main"](features)
        return logits


class DrawnLinear(nn.Module):
    """A linear layer with weights drawn from N(mean, softplus(spread - 2)^2) in training; the mean in evaluation."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        first = nn.Linear(width, num_classes)
        self.mean, self.bias = first.weight, first.bias
        # softplus(-2) = 0.127: the first heads drawn differ a little from the mean, and from each other.
        self.spread = nn.Parameter(torch.zeros_like(self.mean))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits f[B,K] of features f[B,D]."""
        weight = self.mean
        if self.training:
            weight = weight + F.softplus(self.spread - 2) * torch.randn_like(self.mean)
        return F.linear(features, weight, self.bias)


class SymNetsSettings(TermSettings):
    """Settings of symnets."""

    ramp: bool = Field(True, description="let the features' part on the target rise")


class SymNets(Adaptation):
    """Heads of source and target under one softmax are each other's domain discriminator, class by class."""

    paper = "Zhang et al., CVPR 2019"
    role = Role.ADVERSARIAL
    term_name = "confusion"
    of_target = True
    Settings: ClassVar[type[Settings]] = SymNetsSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "symnets",
        paper={"data": {"source_batch": 128, "target_batch": 128}, "optim": {"gamma": 10.0, "weight_decay": 1e-4}},
    )

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the source's head; the network's own is the target's, which predicts."""
        return {**super().parts(width, task), "adversary": self.head(width, len(task.classes), 0.0)}

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return what the features descend on the target: no telling apart, and sure classes; heads are constants."""
        logits = self._logits(model, pair.y, constant=True)
        return (half_mass(logits, first=True) + half_mass(logits, first=False)) / 2 + joint_entropy(logits)

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return what the heads descend, with features as constants, and the features' part on the source."""
        labels = batch.source.labels
        with torch.autocast(labels.device.type, enabled=False):
            x, y = (to_float32(encoded[side].features["main"]) for side in (SOURCE, ("target", VIEW)))
            left, right = (self._logits(model, rows.detach()) for rows in (x, y))
            supervised = sum((self.supervised(z, batch.source) for z in left.chunk(2, 1)), x.new_zeros(()))
            told = mean_of([half_mass(left[rows], first=True) for rows in self.rows(batch.source)])
            apart = told + half_mass(right, first=False)
            both = self._logits(model, x, constant=True)
            halves = batch.source, replace(batch.source, labels=labels + both.shape[1] // 2)
            pulled = mean_of([self.supervised(both, half) for half in halves])
        terms = [
            LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, supervised),
            LossTerm(f"{self.name}/features", Role.SUPERVISED, pulled),
        ]
        return [*terms, LossTerm(f"{self.name}/domains", Role.ADVERSARIAL, apart)] if len(x) and len(y) else terms

    def _logits(self, model: Model, features: Tensor, *, constant: bool = False) -> Tensor:
        """Return f[B,2K] of both heads, the source's first."""
        heads = self.part(model, nn.Module, "adversary"), model.heads["main"]
        if not constant:
            return torch.cat([head(features) for head in heads], 1)
        # The heads' weights as constants, while gradients pass through them to the features.
        weights = [{name: p.detach() for name, p in head.named_parameters()} for head in heads]
        return torch.cat([functional_call(h, w, (features,)) for h, w in zip(heads, weights, strict=True)], 1)
