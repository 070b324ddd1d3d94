"""Batch statistics of the target in place of the source's (Li et al. 2016; Nado et al. 2020; Schneider et al. 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from fercore.models import NormRule, mixed_statistics, refuse_without_batch_norm
from fercore.plugin import Model, Progress, RunConfig, Settings, hookimpl
from fercore_test_time.base import TestTime


class AdaBNSettings(Settings):
    """Settings of adabn."""

    alpha: float | None = Field(
        None, ge=0, le=1, description="share of the batch in the statistics; None = n / (source_count + n)"
    )
    source_count: int = Field(16, ge=1, description="images that the source's statistics count as")
    momentum: float = Field(0.1, ge=0, le=1, description="how far running statistics move with every batch")
    average: bool = Field(False, description="running statistics become the mean over the stream (Li et al.)")


class Count(nn.Module):
    """Batches so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))


class AdaBN(TestTime):
    """Normalises by statistics of the stream; trains nothing. alpha=1 is Nado et al., alpha=0.1 alpha-BN."""

    paper = "Schneider et al., NeurIPS 2020"
    training_parts = ("count",)
    Settings: ClassVar[type[Settings]] = AdaBNSettings
    settings: AdaBNSettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Refuse a network without batch normalisation."""
        refuse_without_batch_norm(model, self.name)
        self.attach(model, Count(), "count")

    def rule(self, model: Model, n: int, clock: Progress) -> NormRule | None:
        """Return the mixture of running statistics and the batch's."""
        how = self.settings
        share = n / (how.source_count + n) if how.alpha is None else how.alpha
        seen = int(self.part(model, Count, "count").get_buffer("batches"))
        return mixed_statistics(share, 1 / (seen + 1) if how.average else how.momentum)

    @hookimpl
    def after_step(self, model: Model) -> None:
        """Count the batch."""
        self.part(model, Count, "count").get_buffer("batches").add_(1)
