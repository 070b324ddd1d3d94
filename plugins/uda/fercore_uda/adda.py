"""ADDA (Tzeng et al., CVPR 2017): a source network first, then an encoder for the target that a critic cannot tell."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from fercore.losses import domain_cross_entropy, to_float32
from fercore.models import GroupedDomainHeads, Model
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    ParamGroup,
    Phase,
    Progress,
    Purpose,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    ViewRequest,
    hookimpl,
    optimiser_from,
    two_stages,
)
from fercore_uda.base import SOURCE, VIEW, NetworkSettings, SourceTrained, mean_of
from fercore_uda.evaluating import Kept
from fercore_uda.presets import presets

PRETRAIN, ADAPT = "pretrain", "adapt"
CRITIC, MAP = "critic", "map"
ADAPTED = "adapted"
"""The target's view; its random numbers are its own."""


class AddaSettings(NetworkSettings):
    """Settings of adda."""

    pretrain_share: float = Field(0.13, gt=0, lt=1, description="share of the steps that learn the source")
    hidden: int = Field(500, ge=1, description="width of the critic's two hidden layers")


class ADDA(SourceTrained):
    """An encoder for the target, from the source's, whose features a critic takes for those of the source."""

    paper = "Tzeng et al., CVPR 2017"
    joint_forward = False
    training_parts = ("adversary", "source_encoder")
    Settings: ClassVar[type[Settings]] = AddaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": presets("adda", paper={"optim": {"lr": 1e-3, "gamma": 7.0}, "train": {"steps": 23000}})["paper"],
        **{key: {"adda": {"bottleneck": 0, "pretrain_share": 0.7}} for key in ("small", "demo")},
    }
    settings: AddaSettings

    def goes_by_length(self) -> str:
        """The length of the first stage does."""
        return "pretrain_share"

    def needs_whole_weights(self) -> str:
        """It copies the encoder between its stages."""
        return "it keeps a copy of the encoder"

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build the network and, beside it, the frozen encoder that the source keeps."""
        model = super().build_model(config, num_classes, task)
        self.attach(model, Kept(copy.deepcopy(nn.Sequential(model.backbone, model.branches["main"]))), "source_encoder")
        return model

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the critic; without batch statistics, for it meets one side alone when the encoder learns."""
        return {"adversary": GroupedDomainHeads(1, width, self.settings.hidden)}

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a view of the source, and from the second stage on of the target."""
        return [ViewRequest("source", VIEW, "weak"), ViewRequest("target", ADAPTED, "weak", (ADAPT,))]

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Lay out a stage of cross-entropy, and one in which critic and encoder step in turns."""
        first, second = two_stages(config, (PRETRAIN, ADAPT), self.settings.pretrain_share, who=self.name)
        spec, clip = optimiser_from(config), config.optim.clip_grad_norm
        encoder = (ParamGroup(("backbone.",), config.optim.backbone_multiplier), ParamGroup(("branches.",)))
        # Critic and encoder step apart: the encoder minimises another loss than the negative of the critic's.
        critic = Phase(CRITIC, (ParamGroup((f"parts.{self.part_name('adversary')}.",)),), spec, clip)
        turns = (critic, Phase(MAP, encoder, spec, clip))
        groups = (*encoder, ParamGroup(("heads.",)))
        return [
            replace(first, phases=(Phase("main", groups, spec, clip),)),
            replace(second, phases=turns),
        ]

    @hookimpl
    def refresh(self, model: Model, clock: Progress) -> None:
        """Let the source keep its encoder as the second stage begins."""
        # Not when it is resumed in the middle: the kept encoder is in the checkpoint.
        if clock.stage == ADAPT and clock.step == 0:
            learnt = nn.Sequential(model.backbone, model.branches["main"]).state_dict()
            self.part(model, Kept, "source_encoder").network.load_state_dict(learnt)

    @hookimpl
    def encode(
        self, model: Model, batch: DomainBatch, view: str, clock: Progress, side: Side, purpose: Purpose
    ) -> Encoded:
        """Run the network; the source's samples through the encoder they keep, in the second stage."""
        if side == "target" or purpose != "train" or clock.stage == PRETRAIN:
            encoded: Encoded = model(batch.images[view])
            return encoded
        with torch.no_grad():
            features = self.part(model, Kept, "source_encoder").forward(batch.images[view])
            return Encoded({"main": features}, {"main": model.heads["main"](features)})

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the cross-entropy; then the critic's, and the encoder's with the labels turned round (Eq 9)."""
        if clock.stage == PRETRAIN:
            return super().loss(model, batch, encoded, clock)
        critic = self.part(model, nn.Module, "adversary")
        x, y = (to_float32(encoded[side].features["main"]) for side in (SOURCE, ("target", ADAPTED)))
        if not len(x) or not len(y):
            return []
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            if clock.phase == CRITIC:
                told, n = critic(torch.cat([x, y.detach()])), len(x)
                every = [torch.cat([told[:n][rows], told[n:]]) for rows in self.rows(batch.source)]
                value = mean_of([domain_cross_entropy(each, len(each) - len(y)) for each in every])
                return [LossTerm(f"{self.name}/critic", Role.ADVERSARIAL, value)]
            # Labels turned round in place of a reversed gradient, which vanishes once the critic is sure.
            value = nn.functional.softplus(-critic(y)).mean()
            return [LossTerm(f"{self.name}/mapping", Role.ADVERSARIAL, value)]
