"""CoMatch (Li et al., ICCV 2021, Eqs 1-8): pseudo labels smoothed by a memory, and a graph of them for embeddings.

Defaults: USB, semilearn/algorithms/comatch and config/usb_cv/comatch (p_cutoff 0.95, graph from 0.8, T 0.2, smoothing
0.9, 64 dimensions, 32 batches of memory and of alignment), with one projection head (USB's runs average three).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import graph_contrast, to_float32, unit, weighted_cross_entropy
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Role, Settings, TaskInfo, hookimpl
from fercore_ssl.alignment import RecentAlignment
from fercore_ssl.base import SemiSupervised, SslSettings, logits
from fercore_ssl.presets import COMMON


class EmbeddingSettings(SslSettings):
    """Settings of methods with embeddings beside the predictions."""

    p_cutoff: float = Field(0.95, gt=0, le=1, description="least probability of a pseudo label")
    T: float = Field(0.2, gt=0, description="temperature of similarities")
    smoothing_alpha: float = Field(0.9, ge=0, le=1, description="share of the network's own prediction in a label")
    proj_size: int = Field(64, ge=1, description="dimensions of an embedding")
    da_len: int = Field(32, ge=1, description="batches whose mean prediction is moved to even classes")


class CoMatchSettings(EmbeddingSettings):
    """Settings of comatch."""

    contrast_p_cutoff: float = Field(0.8, ge=0, le=1, description="least likeness of labels that the graph keeps")
    contrast_loss_ratio: float = Field(1.0, ge=0, description="weight of the graph's term")
    queue_batch: int = Field(32, ge=1, description="batches of both sides in the memory")


class Memory(nn.Module):
    """Embeddings f[N,P] and probabilities f[N,K] of the last samples, in a ring; `count` of them were put in."""

    def __init__(self, size: int, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(size, width))
        self.register_buffer("probs", torch.zeros(size, classes))
        self.register_buffer("count", torch.tensor(0))

    def put(self, embeddings: Tensor, probs: Tensor) -> None:
        """Take in samples in the place of the oldest."""
        size, count = len(self.get_buffer("probs")), self.get_buffer("count")
        rows = (torch.arange(len(probs)) + int(count)) % size
        for name, values in (("embeddings", embeddings), ("probs", probs)):
            buffer = self.get_buffer(name)
            buffer[rows] = values.to(buffer.dtype)
        count += len(probs)

    def smoothed(self, embeddings: Tensor, temperature: float) -> Tensor:
        """Return the mean probabilities f[B,K] of the memory by likeness to embeddings f[B,P]."""
        held = min(int(self.get_buffer("count")), len(self.get_buffer("probs")))
        near, probs = (self.get_buffer(name)[:held].to(embeddings.dtype) for name in ("embeddings", "probs"))
        return (embeddings @ near.T / temperature).softmax(-1) @ probs


class CoMatch(SemiSupervised):
    """A strong view learns the weak one's label, smoothed by like samples; strong views meet by a graph of labels."""

    paper = "Li et al., ICCV 2021"
    Settings: ClassVar[type[Settings]] = CoMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = COMMON
    training_parts: ClassVar[tuple[str, ...]] = ("state", "projection", "memory")
    views: ClassVar[tuple[str, ...]] = ("weak", "strong", "strong2")
    settings: CoMatchSettings

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the projection, the memory and the recent predictions."""
        classes, size = len(task.classes), self.settings.proj_size
        rows = self.settings.queue_batch * (task.batch.source + task.batch.target)
        recent = RecentAlignment(classes, self.settings.da_len)
        return {"projection": projection(width, size), "memory": Memory(rows, size, classes), "state": recent}

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels:
        """Label by the weak view, moved to even classes and, after an epoch, smoothed by the memory (Eqs 1-3)."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            return self._labels(model, batch, encoded, smooth=clock.epoch > 0)

    def _labels(self, model: Model, batch: Batch, encoded: Forward, *, smooth: bool) -> PseudoLabels:
        memory, project = self.part(model, Memory, "memory"), self.part(model, nn.Sequential, "projection")
        weak, known = (unit(project(to_float32(encoded[s, "weak"].features["main"]))) for s in ("target", "source"))
        own = self.part(model, RecentAlignment).align(logits(encoded, "target", "weak").softmax(-1))
        probs = own
        if smooth and int(memory.get_buffer("count")):
            probs = torch.lerp(memory.smoothed(weak, self.settings.T), own, self.settings.smoothing_alpha)
        labels = F.one_hot(batch.source.labels, own.shape[1]).to(own.dtype)
        memory.put(torch.cat([weak, known]), torch.cat([own, labels]))
        top, classes = probs.max(-1)
        return PseudoLabels(classes, (top >= self.settings.p_cutoff).to(probs.dtype), probs)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return the cross-entropies with labels and with sure pseudo labels, and that of both graphs (Eqs 4-8)."""
        assert pseudo is not None
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        value = weighted_cross_entropy(logits(encoded, "target", "strong"), pseudo.probs, pseudo.weight)
        project = self.part(model, nn.Sequential, "projection")
        views = (to_float32(encoded["target", view].features["main"]) for view in ("strong", "strong2"))
        first, second = (unit(project(features)) for features in views)
        graph = graph_contrast(first, second, pseudo.probs, self.settings.T, self.settings.contrast_p_cutoff)
        weight = self.settings.contrast_loss_ratio
        contrast = LossTerm(f"{self.name}/graph", Role.CONTRASTIVE, graph, weight)
        return [self._supervised(supervised), self._consistency(value), contrast]


def projection(width: int, size: int) -> nn.Sequential:
    """Return the embedding of features f[B,D] -> f[B,size]."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, size))
