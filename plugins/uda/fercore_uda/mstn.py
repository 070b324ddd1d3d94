"""MSTN (Xie et al., ICML 2018), and DSBN (Chang et al., CVPR 2019) around it: batch statistics of each domain's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from fercore.losses import moving_centroids, ramp, to_float32
from fercore.models import Model, normalised_as, split_norms
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    hookimpl,
    two_stages,
)
from fercore_uda.adversaries import DANN, DannSettings
from fercore_uda.base import SOURCE, TARGET, VIEW, mean_of
from fercore_uda.evaluating import Kept, in_evaluation
from fercore_uda.presets import presets

ADAPT, TEACH = "adapt", "teach"


class MstnSettings(DannSettings):
    """Settings of mstn."""

    weight: float = Field(0.1, ge=0, description="of the adversary")
    centroids: float = Field(1.0, ge=0, description="weight of the distance of class means, which rises")
    momentum: float = Field(0.3, gt=0, le=1, description="share of a batch's own mean in a class's")


class Centroids(nn.Module):
    """Moving class means of each source and of the target, f[S+1,K,D], the target's last; 0 at first."""

    def __init__(self, sources: int, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(sources + 1, classes, width))


class MSTN(DANN):
    """DANN, and moving class means of both sides meet, the target's by predicted classes."""

    paper = "Xie et al., ICML 2018"
    training_parts: ClassVar[tuple[str, ...]] = (*DANN.training_parts, "centroids", "teacher")
    Settings: ClassVar[type[Settings]] = MstnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("mstn")

    def goes_by_length(self) -> str:
        """The weight of the class means does."""
        return "centroids"

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return discriminator and class means."""
        sources = len(task.sources) if self.settings.sources == "apart" else 1
        return {**super().parts(width, task), "centroids": Centroids(sources, len(task.classes), width)}

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the adversary's term, and the mean squared distance of the class means (Eq 8)."""
        terms = list(super().align(model, batch, encoded, clock))
        if not terms:
            return []
        means = self.part(model, Centroids, "centroids").get_buffer("means")
        x, y = (to_float32(encoded[side].features["main"]) for side in (SOURCE, TARGET))
        classes = encoded[TARGET].logits["main"].argmax(-1)
        target = moving_centroids(y, classes, means[-1], self.settings.momentum)
        values = []
        for rows in self.rows(batch.source):
            number = int(batch.source.domain[rows][0]) if len(means) > 2 else 0
            source = moving_centroids(x[rows], batch.source.labels[rows], means[number], self.settings.momentum)
            values.append(F.mse_loss(source, target))
            if clock.forward == 0:
                means[number] = source.detach()
        if clock.forward == 0:  # means move once a step, in the first of an add-on's forwards
            means[-1] = target.detach()
        weight = self.settings.centroids * ramp(clock.progress)
        return [*terms, LossTerm(f"{self.name}/centroids", Role.ALIGNMENT, mean_of(values), weight)]


class DsbnSettings(MstnSettings):
    """Settings of dsbn."""

    sources: Any = "apart"
    adapt_share: float = Field(0.5, gt=0, lt=1, description="share of the steps of the first stage")


class DSBN(MSTN):
    """MSTN with batch normalisation of each domain's own; then it learns the target's classes from what it was."""

    paper = "Chang et al., CVPR 2019"
    joint_forward = False
    Settings: ClassVar[type[Settings]] = DsbnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "dsbn", paper={"data": {"source_batch": 40, "target_batch": 40}, "optim": {"name": "adam", "lr": 5e-5}}
    )

    def needs_whole_weights(self) -> str:
        """It copies the network between its stages."""
        return "the teacher of its second stage is a copy of the network"

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build the network with normalisations for each source and the target, and a frozen copy for later."""
        model = super().build_model(config, num_classes, task)
        for module in (model.backbone, model.branches, model.heads):
            split_norms(module, len(self.part(model, Centroids, "centroids").get_buffer("means")))
        self.attach(model, Kept(copy.deepcopy(self._network(model))), "teacher")
        return model

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Lay out the stage of MSTN, and that of pseudo labels."""
        return two_stages(config, (ADAPT, TEACH), self.settings.adapt_share, who=self.name)

    @hookimpl
    def refresh(self, model: Model, clock: Progress, encode_dataset: Any) -> dict[str, float] | None:
        """Keep the network of the first stage as the teacher."""
        if clock.stage == TEACH and clock.step == 0:
            self.part(model, Kept, "teacher").network.load_state_dict(self._network(model).state_dict())
        return super().refresh(model, clock, encode_dataset)

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str, side: Side) -> Encoded:
        """Run each source's images with its own normalisation; all others with the target's."""
        counts = batch.domain_counts() if side == "source" else ()
        if not sum(counts):
            encoded: Encoded = model(batch.images[view])
            return encoded
        parts = []
        for number, images in enumerate(torch.split(batch.images[view], list(counts))):
            if len(images):
                with normalised_as(model, number if self.settings.sources == "apart" else 0):
                    encoded = model(images)
                parts.append((encoded.features["main"], encoded.logits["main"]))
        features, logits = (torch.cat([part[kind] for part in parts]) for kind in range(2))
        return Encoded({"main": features}, {"main": logits})

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
        """Label the target by the teacher at first, and more and more by the network itself (section 4.2)."""
        if clock.stage == ADAPT:
            return None
        images, share = batch.target.images[VIEW], ramp(clock.progress)
        teacher = to_float32(self.part(model, Kept, "teacher").forward(images))
        probs = torch.lerp(teacher, to_float32(in_evaluation(model, images).logits["main"]), share).softmax(-1)
        return PseudoLabels(probs.argmax(-1), torch.ones_like(probs[:, 0]), probs)

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return MSTN's terms in the first stage."""
        return super().align(model, batch, encoded, clock) if clock.stage == ADAPT else []

    @hookimpl
    def loss(  # type: ignore[override]
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return the cross-entropy of the source, and in the second stage that of the target, which rises."""
        terms = list(super().loss(model, batch, encoded, clock))
        if pseudo is None or not len(batch.target):
            return terms
        value = F.cross_entropy(to_float32(encoded[TARGET].logits["main"]), pseudo.labels)
        return [*terms, LossTerm(f"{self.name}/pseudo_labels", Role.CONSISTENCY, value, ramp(clock.progress))]

    @staticmethod
    def _network(model: Model) -> nn.Sequential:
        return nn.Sequential(model.backbone, model.branches["main"], model.heads["main"])
