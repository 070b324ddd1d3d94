"""RoTTA (Yuan et al., CVPR 2023): robust statistics, a balanced memory of recent sure images, a mean teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fercore.losses import log_entropy, log_probabilities, soft_cross_entropy, timeliness
from fercore.models import moments, move_running, norm_parameters, normalised, normalised_by, running
from fercore.plugin import (
    DomainBatch,
    Encoded,
    LossTerm,
    Model,
    ParamGroup,
    Phase,
    Progress,
    Role,
    RunConfig,
    Settings,
    StepReport,
    hookimpl,
    optimiser_from,
)
from fercore_test_time.base import STREAM, TestTime, presets
from fercore_test_time.memory import Memory, MemorySettings
from fercore_test_time.students import copy_of, follow, state_of
from fercore_test_time.views import face_views


class RottaSettings(MemorySettings):
    """Settings of rotta."""

    statistics: float = Field(0.05, gt=0, le=1, description="share of the memory's statistics in a step (alpha)")
    follow: float = Field(1e-3, gt=0, le=1, description="share of the student's weights that the teacher takes (nu)")
    by_age: float = Field(1.0, ge=0, description="what age counts for leaving the memory")
    by_entropy: float = Field(1.0, ge=0, description="what entropy counts for leaving the memory")


class RoTTA(TestTime):
    """Answers with the teacher, which the network itself is; the student beside it learns from the memory."""

    paper = "Yuan et al., CVPR 2023"
    training_parts = ("student", "memory")
    runs_network = True
    Settings: ClassVar[type[Settings]] = RottaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="adam", lr=1e-3)
    settings: RottaSettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Copy the network, and make room for images."""
        norm_parameters(model, self.settings.affine_of, who=self.name)
        self.attach(model, copy_of(model), "student")
        self.attach(model, Memory(self.settings.memory, num_classes), "memory")

    def begin(self, model: Model) -> None:
        """Let the student be the network."""
        self.part(model, Model, "student").load_state_dict(state_of(model))

    def phases(self, config: RunConfig, model: Model) -> Iterator[Phase]:
        """Yield the one phase over scale and shift of the student's layers."""
        student = f"parts.{self.part_name('student')}"
        names = norm_parameters(model, self.settings.affine_of, who=self.name)
        groups = (ParamGroup(tuple(f"{student}.{name}" for name in names)),)
        yield Phase("adapt", groups, optimiser_from(config), config.optim.clip_grad_norm)

    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Answer as the teacher does, and let the memory choose of the batch."""
        memory, log_p = self.part(model, Memory, "memory"), log_probabilities(encoded.logits.values()).detach()
        labels, entropies = log_p.argmax(1).tolist(), log_entropy(log_p).tolist()
        for image, label, entropy in zip(batch.images[STREAM], labels, entropies, strict=True):
            memory.add_timely(image, label, entropy, self.settings.by_age, self.settings.by_entropy)
        return encoded

    @hookimpl
    def loss(self, model: Model, batch: Any) -> Sequence[LossTerm]:
        """Return, every so many images, the student's cross-entropy with the teacher on the memory (Eq 8)."""
        memory = self.part(model, Memory, "memory")
        if not memory.due(len(batch.target)):
            return []
        student, order = self.part(model, Model, "student").eval(), memory.by_class()
        images, ages = memory.images[order], memory.ages[order] / self.settings.memory
        with torch.no_grad(), normalised_by(model, self._robust):
            teacher = log_probabilities(model(images).logits.values()).exp()
        with normalised_by(student, self._robust):
            log_p = log_probabilities(student(face_views(model, images)).logits.values())
        value = (soft_cross_entropy(log_p, teacher) * timeliness(ages.to(log_p.dtype))).mean()
        return [LossTerm(f"{self.name}/memory", Role.CONSISTENCY, value)]

    def _robust(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        """Normalise by running statistics that a share of the batch's has just moved (Eq 4)."""
        batch, share = moments(x), self.settings.statistics
        mean, variance = (torch.lerp(old, new, share) for old, new in zip(running(norm), batch[:2], strict=True))
        move_running(norm, batch.mean, batch.variance, share)
        return normalised(norm, x, mean, variance)

    @hookimpl
    def after_step(self, model: Model, report: StepReport) -> None:
        """Let the teacher follow after a step (Eq 7)."""
        if not report.skipped:
            follow(model, self.part(model, Model, "student"), 1 - self.settings.follow)
