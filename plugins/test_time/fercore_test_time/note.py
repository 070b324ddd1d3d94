"""NOTE (Gong et al., NeurIPS 2022): instance-aware normalisation, and a memory balanced over predicted classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fercore.losses import log_entropy, log_probabilities
from fercore.models import (
    NormRule,
    batch_statistics,
    moments,
    move_running,
    norm_parameters,
    normalised_by,
    of_channels,
    running,
    scaled,
)
from fercore.plugin import DomainBatch, Encoded, LossTerm, Model, Progress, Role, RunConfig, Settings, hookimpl
from fercore_test_time.base import STREAM, NormTrained, presets
from fercore_test_time.memory import Memory, MemorySettings


class NoteSettings(MemorySettings):
    """Settings of note."""

    instance_aware: bool = Field(False, description="for networks trained so: instance-aware batch normalisation")
    width: float = Field(4.0, ge=0, description="deviations that an image's statistics may differ unheeded (k)")
    momentum: float = Field(0.01, ge=0, le=1, description="how far running statistics move in a step")


class NOTE(NormTrained):
    """Answers image by image, and minimises the entropy of a memory that is balanced and independent of the order."""

    paper = "Gong et al., NeurIPS 2022"
    training_parts = ("memory",)
    runs_network = True
    Settings: ClassVar[type[Settings]] = NoteSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="adam", lr=1e-4)
    settings: NoteSettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Make room for images."""
        norm_parameters(model, self.settings.affine_of, who=self.name)
        self.attach(model, Memory(self.settings.memory, num_classes), "memory")

    def rule(self, model: Model, n: int, clock: Progress) -> NormRule | None:
        """Return instance-aware normalisation around the running statistics."""
        return InstanceAware(self.settings.width, 0.0) if self.settings.instance_aware else None

    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Answer as the network does, and let the memory choose of the batch."""
        memory, labels = self.part(model, Memory, "memory"), log_probabilities(encoded.logits.values()).argmax(1)
        for image, label in zip(batch.images[STREAM], labels.tolist(), strict=True):
            memory.add_balanced(image, label)
        return encoded

    @hookimpl
    def loss(self, model: Model, batch: Any) -> Sequence[LossTerm]:
        """Return, every so many images, the entropy of the memory, over K as in the authors' code."""
        memory = self.part(model, Memory, "memory")
        if not memory.due(len(batch.target)):
            return []
        aware, momentum = self.settings.instance_aware, self.settings.momentum
        rule = InstanceAware(self.settings.width, momentum) if aware else batch_statistics(momentum)
        with normalised_by(model, rule):
            log_p = log_probabilities(model(memory.images[memory.by_class()]).logits.values())
        value = log_entropy(log_p).mean() / log_p.shape[1]
        return [LossTerm(f"{self.name}/entropy", Role.REGULARISER, value)]


class InstanceAware:
    """Instance-aware batch normalisation (section 3.1): an image's own statistics, as far as they differ for sure.

    Args:
        width: k. momentum: how far running statistics move with a batch, whose own are then the middle; 0 = they are.
    """

    def __init__(self, width: float, momentum: float) -> None:
        self.width, self.momentum = width, momentum

    def __call__(self, norm: _BatchNorm, x: Tensor) -> Tensor:
        """Return f[B,C,H,W] normalised, scaled and shifted."""
        middle = running(norm)
        if self.momentum:
            batch = moments(x)
            middle = batch.mean, batch.unbiased
            move_running(norm, batch.mean, batch.unbiased, self.momentum)
        mean, variance = (of_channels(values, x) for values in middle)
        area = x[0, 0].numel()
        if area > 1:
            axes = list(range(2, x.ndim))
            own_variance, own_mean = torch.var_mean(x, axes, keepdim=True)
            spread = variance + norm.eps
            mean = mean + shrunk(own_mean - mean, self.width * (spread / area).sqrt())
            variance = F.relu(variance + shrunk(own_variance - variance, self.width * spread * (2 / (area - 1)) ** 0.5))
        return scaled(norm, (x - mean) * torch.rsqrt(variance + norm.eps))


def shrunk(x: Tensor, width: Tensor) -> Tensor:
    """Return x moved towards 0 by a width, 0 where it is within."""
    return F.relu(x - width) - F.relu(-(x + width))
