"""The global part of AGLRLS (Gao et al., TMM 2024): an adversary, and pseudo labels with thresholds of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from fercore.losses import curriculum_thresholds, to_float32, weighted_cross_entropy
from fercore.models import Model, SizedByData
from fercore.plugin import (
    Batch,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Stage,
    TaskInfo,
    ViewRequest,
    hookimpl,
    two_stages,
)
from fercore_uda.adversaries import CDAN, CdanSettings
from fercore_uda.base import TARGET
from fercore_uda.presets import presets

SOURCE_STAGE, ADAPT = "source", "adapt"


class AglrlsSettings(CdanSettings):
    """Settings of aglrls."""

    weight: float = Field(0.5, ge=0, description="of the adversary")
    supervised: float = Field(7.0, ge=0, description="weight of the cross-entropies, as of the released global head")
    p_cutoff: float = Field(0.95, gt=0, le=1, description="threshold of the class that is learnt best")
    pretrain_share: float = Field(0.3, gt=0, lt=1, description="share of the steps that learn the source alone")


class AGLRLS(CDAN):
    """CDAN+E beside pseudo labels of the weak view for the strong one; the method's global head alone."""

    paper = "Gao et al., TMM 2024"
    training_parts: ClassVar[tuple[str, ...]] = (*CDAN.training_parts, "learnt")
    Settings: ClassVar[type[Settings]] = AglrlsSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "aglrls",
        paper={
            "data": {"source_batch": 16, "target_batch": 16, "size": 112},
            "optim": {"lr": 1e-4, "schedule": "constant"},
        },
    )

    def goes_by_length(self) -> str:
        """The length of the first stage does."""
        return "pretrain_share"

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the adversary, and the class that each target sample got in this epoch, -1 = none yet."""
        learnt = torch.full((task.target.n,), -1)
        return {**super().parts(width, task), "learnt": SizedByData({"labels": learnt})}

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak view of each side and a strong one of the target."""
        return [*super().request_views(), ViewRequest("target", "strong", "strong", (ADAPT,))]

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Lay out a stage of the source, and that of adaptation."""
        return two_stages(config, (SOURCE_STAGE, ADAPT), self.settings.pretrain_share, who=self.name)

    @hookimpl
    def refresh(self, model: Model, clock: Progress, encode_dataset: Any) -> dict[str, float] | None:
        """Forget what the target was labelled before each epoch, as the released code does."""
        self.part(model, SizedByData, "learnt").get_buffer("labels").fill_(-1)
        return super().refresh(model, clock, encode_dataset)

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
        """Label the target by its weak view, above lower thresholds for classes that got few labels."""
        if clock.stage == SOURCE_STAGE:
            return None
        learnt = self.part(model, SizedByData, "learnt").get_buffer("labels")
        probs = to_float32(encoded[TARGET].logits["main"]).softmax(-1)
        top, labels = probs.max(-1)
        levels = curriculum_thresholds(learnt, probs.shape[1], self.settings.p_cutoff, mapping="squared")
        sure = top >= self.settings.p_cutoff
        learnt[batch.target.index[sure]] = labels[sure]
        return PseudoLabels(labels, (top >= levels[labels]).to(probs.dtype), probs)

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the adversary's term in the second stage."""
        return [] if clock.stage == SOURCE_STAGE else super().align(model, batch, encoded, clock)

    @hookimpl
    def loss(  # type: ignore[override]
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return the cross-entropy of the source, and of the target's strong view with its pseudo labels."""
        weight = self.settings.supervised
        terms = [replace(term, weight=weight) for term in super().loss(model, batch, encoded, clock)]
        if pseudo is None or not len(batch.target):
            return terms
        strong = to_float32(encoded["target", "strong"].logits["main"])
        value = weighted_cross_entropy(strong, pseudo.labels, pseudo.weight)
        return [*terms, LossTerm(f"{self.name}/pseudo_labels", Role.CONSISTENCY, value, weight)]
