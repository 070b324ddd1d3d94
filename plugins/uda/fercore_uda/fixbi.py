"""FixBi (Na et al., CVPR 2021): two networks learn mixed images, one nearer the source and one nearer the target."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import masked_cross_entropy, masked_mean, to_float32
from fercore.models import Model
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    Progress,
    Role,
    RunConfig,
    Settings,
    TaskInfo,
    hookimpl,
)
from fercore_uda.base import TARGET, VIEW, NetworkSettings, SourceTrained
from fercore_uda.presets import presets


class FixbiSettings(NetworkSettings):
    """Settings of fixbi."""

    ratio: float = Field(0.7, gt=0.5, lt=1, description="the source's share in the first network's images; 1 - it")
    deviations: float = Field(2.0, ge=0, description="below the mean confidence at which labels are no more trusted")
    warm_up: float = Field(0.5, ge=0, le=1, description="share of the run of self-penalisation; matching comes after")
    temperature: float = Field(5.0, gt=0, description="of the self-penalisation at first; it is learnt")


class Labels(NamedTuple):
    """A network's own view of the target: logits f[M,K], classes int64[M], and which are trusted, bool[M]."""

    logits: Tensor
    classes: Tensor
    sure: Tensor


class FixBi(SourceTrained):
    """Two networks learn images mixed at fixed shares and teach each other what they are sure of."""

    paper = "Na et al., CVPR 2021"
    joint_forward = False
    Settings: ClassVar[type[Settings]] = FixbiSettings
    training_parts: ClassVar[tuple[str, ...]] = ("temperatures",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "fixbi", paper={"optim": {"lr": 1e-3, "backbone_multiplier": 1.0, "schedule": "constant", "weight_decay": 5e-4}}
    )
    settings: FixbiSettings

    def goes_by_length(self) -> str:
        """The end of the self-penalisation does."""
        return "warm_up"

    def needs_whole_weights(self) -> str:
        """It gives both networks the same weights as it begins."""
        return "it keeps a second network, which begins as a copy"

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build the network nearer the source, and beside it the one nearer the target, its copy."""
        model = super().build_model(config, num_classes, task)
        self.attach(model, copy.deepcopy(nn.ModuleList(_network(model))), "peer")
        scales = [torch.tensor(self.settings.temperature) for _ in range(2)]
        self.attach(model, nn.ParameterList(scales), "temperatures")
        return model

    @hookimpl
    def refresh(self, model: Model, clock: Progress) -> None:
        """Begin with two equal networks, whatever weights the first was given."""
        if clock.step == 0:
            self.part(model, nn.ModuleList, "peer").load_state_dict(nn.ModuleList(_network(model)).state_dict())

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str) -> Encoded:
        """Run both networks; the mean of their probabilities predicts."""
        images = batch.images[view]
        first, (features, logits) = model(images), self._peer(model, images)
        return Encoded({**first.features, "peer": features}, {**first.logits, "peer": logits})

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return what both networks descend: mixed images, then the penalty, later matching and consistency."""
        n = min(len(batch.source), len(batch.target))
        if not n:
            return super().loss(model, batch, encoded, clock)
        own = [self._labels(encoded[TARGET].logits[name]) for name in ("main", "peer")]
        terms = [LossTerm(f"{self.name}/mixed", Role.SUPERVISED, self._mixed(model, batch, own, n))]
        if clock.progress < self.settings.warm_up:
            scales = self.part(model, nn.ParameterList, "temperatures")
            penalties = [_penalty(each, scale) for each, scale in zip(own, scales, strict=True)]
            return [*terms, LossTerm(f"{self.name}/penalty", Role.REGULARISER, penalties[0] + penalties[1])]
        matching = [masked_cross_entropy(a.logits, b.classes, b.sure) for a, b in (own, own[::-1])]
        half = _mix(batch, 0.5, n)
        first, second = model(half).logits["main"], self._peer(model, half)[1]
        agreement = F.mse_loss(to_float32(first), to_float32(second))
        return [
            *terms,
            LossTerm(f"{self.name}/matching", Role.CONSISTENCY, matching[0] + matching[1]),
            LossTerm(f"{self.name}/agreement", Role.CONSISTENCY, agreement),
        ]

    def _mixed(self, model: Model, batch: Batch, own: Sequence[Labels], n: int) -> Tensor:
        """Return the sum over networks of the cross-entropy of n mixed images (Eqs 1-2)."""
        share = self.settings.ratio
        near = to_float32(model(_mix(batch, share, n)).logits["main"])
        far = to_float32(self._peer(model, _mix(batch, 1 - share, n))[1])
        total = near.new_zeros(())
        for z, source, each in ((near, share, own[0]), (far, 1 - share, own[1])):
            known, guessed = (F.cross_entropy(z, y[:n]) for y in (batch.source.labels, each.classes))
            total = total + source * known + (1 - source) * guessed
        return total

    def _labels(self, logits: Tensor) -> Labels:
        """Return a network's classes, trusted from some deviations below the mean confidence on (section 3.3)."""
        logits = to_float32(logits)
        top, classes = logits.detach().softmax(-1).max(-1)
        spread = top.std() if len(top) > 1 else 0.0
        return Labels(logits, classes, top >= top.mean() - self.settings.deviations * spread)

    def _peer(self, model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of the network nearer the target."""
        backbone, branch, head = self.part(model, nn.ModuleList, "peer")
        features = to_float32(branch(backbone(images)))
        return features, to_float32(head(features))


def _network(model: Model) -> tuple[nn.Module, nn.Module, nn.Module]:
    return model.backbone, model.branches["main"], model.heads["main"]


def _mix(batch: Batch, share: float, n: int) -> Tensor:
    """Return images f[n,3,H,W] of the first n of source and target mixed, so much of them the source's."""
    return torch.lerp(batch.target.images[VIEW][:n], batch.source.images[VIEW][:n], share)


def _penalty(own: Labels, temperature: Tensor) -> Tensor:
    """Return the mean -log(1 - p) of a network's own doubtful classes at a temperature (Eq 5)."""
    # A temperature that is learnt must not reach 0; 1 - p has a floor, for a sure network has no gradient to give.
    probs = (own.logits / temperature.clamp_min(0.1)).softmax(-1)
    rest = 1 - probs.gather(1, own.classes[:, None]).squeeze(1)
    return masked_mean(-rest.clamp_min(1e-6).log(), ~own.sure)
