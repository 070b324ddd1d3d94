"""CoTTA (Wang et al., CVPR 2022): a student learns from a teacher, its mean, over many views; some weights go back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fercore.losses import log_probabilities, soft_cross_entropy
from fercore.models import NormRule, batch_norms, batch_statistics, normalised_by
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    Model,
    ParamGroup,
    Phase,
    Progress,
    Role,
    RunConfig,
    Settings,
    UserInputError,
    hookimpl,
    optimiser_from,
)
from fercore_test_time.base import STREAM, TestTime, presets, said
from fercore_test_time.students import copy_of, follow, state_of, weights_of
from fercore_test_time.views import face_views


class CottaSettings(Settings):
    """Settings of cotta."""

    keep: float = Field(0.999, ge=0, lt=1, description="share of the teacher's weights that a step leaves")
    views: int = Field(32, ge=1, description="that the teacher is asked of a batch on which the source is unsure")
    sure: float = Field(0.92, ge=0, le=1, description="mean confidence of the source from which no views are asked")
    restore: float = Field(0.01, ge=0, le=1, description="chance of each weight to go back to the source's")
    momentum: float = Field(0.1, ge=0, le=1, description="how far running statistics, for after the stream, move")


class CoTTA(TestTime):
    """Answers with the teacher, which the network itself is; the student and the source's network stand beside it."""

    paper = "Wang et al., CVPR 2022"
    training_parts = ("student", "source")
    runs_network = True
    Settings: ClassVar[type[Settings]] = CottaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="adam", lr=1e-3)
    settings: CottaSettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Copy the network twice."""
        if config.data.target_batch == 1 and batch_norms(model):
            what = f"{self.name} normalises by the statistics of a batch, and a batch of one has none of a class's"
            raise UserInputError(what, where="data.target_batch=1", fix="larger batches, or rotta, note, lame, t3a")
        self.attach(model, copy_of(model), "student")
        self.attach(model, copy_of(model).requires_grad_(False), "source")

    def begin(self, model: Model) -> None:
        """Let both be the network."""
        for part in ("student", "source"):
            self.part(model, Model, part).load_state_dict(state_of(model))

    def phases(self, config: RunConfig, model: Model) -> Iterator[Phase]:
        """Yield the one phase over all of the student's weights."""
        groups = (ParamGroup((f"parts.{self.part_name('student')}.",)),)
        yield Phase("adapt", groups, optimiser_from(config), config.optim.clip_grad_norm)

    def rule(self, model: Model, n: int, clock: Progress) -> NormRule | None:
        """Return batch statistics."""
        return batch_statistics(self.settings.momentum)

    @torch.no_grad()
    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Return the teacher's logits, the mean over views where the source is unsure of the batch (Eqs 2 to 4)."""
        images = batch.images[STREAM]
        with normalised_by(model, batch_statistics(0.0)):
            source = self._run(model, "source", images)
            if float(log_probabilities(source.logits.values()).exp().amax(1).mean()) >= self.settings.sure:
                return encoded
            sums = {name: torch.zeros_like(z) for name, z in encoded.logits.items()}
            for _ in range(self.settings.views):
                for name, z in model(face_views(model, images)).logits.items():
                    sums[name] += z
        return Encoded(encoded.features, {name: total / self.settings.views for name, total in sums.items()})

    def _run(self, model: Model, part: str, images: Tensor) -> Encoded:
        network = self.part(model, Model, part).eval()
        with normalised_by(network, batch_statistics(0.0)):
            encoded: Encoded = network(images)
            return encoded

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return the cross-entropy of the student with the teacher's answer (Eq 1)."""
        student = self._run(model, "student", batch.target.images[STREAM])
        target = log_probabilities(said(encoded).logits.values()).exp()
        value = soft_cross_entropy(log_probabilities(student.logits.values()), target).mean()
        return [LossTerm(f"{self.name}/consistency", Role.CONSISTENCY, value)]

    @hookimpl
    def after_step(self, model: Model) -> None:
        """Let the teacher follow, then some of the student's weights go back (Eqs 2 and 8)."""
        student, source = (self.part(model, Model, part) for part in ("student", "source"))
        follow(model, student, self.settings.keep)
        for (_, weight), (_, old) in zip(weights_of(student), weights_of(source), strict=True):
            back = torch.rand(weight.shape).to(weight.device) < self.settings.restore
            weight.copy_(torch.where(back, old, weight))
