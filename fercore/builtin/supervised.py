"""source_only: train on the labelled source alone; the baseline every adaptation method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field

from fercore.plugin import (
    Batch,
    Forward,
    LossTerm,
    Model,
    Plugin,
    Role,
    RunConfig,
    Settings,
    ViewRequest,
    build_classifier,
    hookimpl,
)


class SourceOnlySettings(Settings):
    """Settings of source_only."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")


class SourceOnly(Plugin):
    """Cross-entropy on the source; a whole backbone, one linear head. The target is never looked at in training."""

    Settings: ClassVar[type[Settings]] = SourceOnlySettings
    settings: SourceOnlySettings

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int) -> Model:
        """Build backbone and linear head."""
        return build_classifier(config.model, num_classes)

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for one weakly augmented view of the source."""
        return [ViewRequest("source", "weak", "weak")]

    @hookimpl
    def loss(self, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return the cross-entropy of the source samples."""
        logits = encoded[("source", "weak")].logits["main"]
        value = F.cross_entropy(logits, batch.source.labels, label_smoothing=self.settings.label_smoothing)
        return [LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, value)]
