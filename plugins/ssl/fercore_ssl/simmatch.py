"""SimMatch (Zheng et al., CVPR 2022, Eqs 3-10): views agree in classes and in likeness to the labelled samples.

Defaults: USB, semilearn/algorithms/simmatch and config/usb_cv/simmatch (p_cutoff 0.95, T 0.1, smoothing 0.9, 128
dimensions, 32 batches of alignment), with one projection head. The averaged network gives both targets, as in the
paper; USB takes the student's own for the weak view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fercore.losses import to_float32, unit, weighted_cross_entropy
from fercore.models import Model, SizedByData, Teacher
from fercore.plugin import (
    Batch,
    EncodedDataset,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Role,
    Settings,
    Side,
    TaskInfo,
    hookimpl,
)
from fercore_ssl.alignment import RecentAlignment
from fercore_ssl.base import SemiSupervised, logits
from fercore_ssl.comatch import EmbeddingSettings, projection
from fercore_ssl.presets import presets


class SimMatchSettings(EmbeddingSettings):
    """Settings of simmatch."""

    T: float = Field(0.1, gt=0, description="temperature of similarities")
    proj_size: int = Field(128, ge=1, description="dimensions of an embedding")
    in_loss_ratio: float = Field(1.0, ge=0, description="weight of the likeness to labelled samples")
    decay: float = Field(0.999, gt=0, lt=1, description="of the averaged network")


class SimMatch(SemiSupervised):
    """The strong view learns the averaged network's label and its likeness to every labelled sample."""

    paper = "Zheng et al., CVPR 2022"
    Settings: ClassVar[type[Settings]] = SimMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("simmatch", quick={"decay": 0.9})
    training_parts: ClassVar[tuple[str, ...]] = ("state", "projection", "bank", "teacher")
    settings: SimMatchSettings

    def needs_whole_weights(self) -> str:
        """It averages the weights by itself."""
        return "its teacher is an average of all weights"

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return projection, teacher, recent predictions, and the bank of labelled samples: embeddings and labels."""
        size, n = self.settings.proj_size, sum(source.n for source in task.sources)
        bank = SizedByData({"embeddings": torch.zeros(n, size), "labels": torch.zeros(n, dtype=torch.int64)})
        recent = RecentAlignment(len(task.classes), self.settings.da_len)
        return {"projection": projection(width, size), "teacher": Teacher(), "bank": bank, "state": recent}

    @hookimpl
    def refresh(self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]) -> None:
        """Fill the bank before the first step."""
        if clock.step == 0 and clock.epoch == 0:
            source, bank = encode_dataset("source"), self.part(model, SizedByData, "bank")
            project = self.part(model, nn.Sequential, "projection")
            bank.put("embeddings", unit(project(to_float32(source.features["main"]))))
            bank.put("labels", source.labels)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return the cross-entropies with labels, with the teacher's classes, and with its likenesses."""
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        bank = self.part(model, SizedByData, "bank")
        # A copy: the batch's own embeddings go into the bank before the student is compared with it.
        kept = bank.get_buffer("embeddings").to(supervised.dtype, copy=True)
        with torch.no_grad():
            probs, likeness = self._targets(model, batch, kept, bank.get_buffer("labels"), smooth=clock.epoch > 0)
            sure = (probs.amax(-1) >= self.settings.p_cutoff).to(probs.dtype)
        value = weighted_cross_entropy(logits(encoded, "target", "strong"), probs, sure)
        strong = self.part(model, nn.Sequential, "projection")(to_float32(encoded["target", "strong"].features["main"]))
        alike = F.cross_entropy(unit(strong) @ kept.T / self.settings.T, likeness)
        terms = [self._supervised(supervised), self._consistency(value)]
        if clock.epoch:  # the bank is of the first network until every sample has been seen again
            weight = self.settings.in_loss_ratio
            terms.append(LossTerm(f"{self.name}/instances", Role.CONSISTENCY, alike, weight))
        return terms

    def _targets(
        self, model: Model, batch: Batch, kept: Tensor, labels: Tensor, *, smooth: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the teacher's classes f[B,K] and likenesses f[B,N], and put the batch's embeddings into the bank."""
        z, weak = self._taught(model, batch.target.images["weak"])
        own = self.part(model, RecentAlignment).align(z.softmax(-1))
        near = (weak @ kept.T / self.settings.T).softmax(-1)
        likeness = near * own[:, labels]
        likeness = likeness / likeness.sum(-1, keepdim=True).clamp_min(torch.finfo(own.dtype).tiny)
        probs = own
        if smooth:
            by_class = torch.zeros_like(own).index_add_(1, labels, near)
            probs = torch.lerp(by_class, own, self.settings.smoothing_alpha)
        bank = self.part(model, SizedByData, "bank").get_buffer("embeddings")
        bank[batch.source.index] = self._taught(model, batch.source.images["weak"])[1].to(bank.dtype)
        return probs, likeness

    def _taught(self, model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits f[B,K] and embeddings f[B,P] of images f[B,3,H,W]."""
        teacher, project = self.part(model, Teacher, "teacher"), self.part(model, nn.Sequential, "projection")
        answer, prefix = teacher.encode(model, images), f"parts.{self.part_name('projection')}."
        own = {n.removeprefix(prefix): p for n, p in teacher.parameters_of(model).items() if n.startswith(prefix)}
        rows = functional_call(project, own, (to_float32(answer.features["main"]),))
        return to_float32(answer.logits["main"]), unit(rows)

    @hookimpl
    def after_step(self, model: Model) -> None:
        """Move the averaged network towards the network."""
        self.part(model, Teacher, "teacher").follow(model, self.settings.decay)
