"""What the methods share: a network with a head for each source, views, and each source's own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import Model, RowNorm, build_backbone, heads_on_backbone
from fercore.plugin import (
    DomainBatch,
    LossTerm,
    Plugin,
    Role,
    RunConfig,
    Settings,
    TaskInfo,
    ViewRequest,
    hookimpl,
    merge,
)

PAPER: Mapping[str, Any] = {
    "data": {"source_batch": 96, "target_batch": 32},
    "model": {"backbone": "resnet50"},
    "optim": {"lr": 0.01, "backbone_multiplier": 0.1, "gamma": 10.0, "weight_decay": 5e-4},
    "train": {"steps": 10000, "steps_per_epoch": 500},
}
"""MFSAN's setting, in which rows of several methods are compared: 32 images of each of three sources."""


class NetworkSettings(Settings):
    """Settings of every method."""

    bottleneck: int = Field(256, ge=0, description="width of the layer between backbone and heads; 0 = none")


class Heads(nn.Module):
    """Linear heads side by side, whose probabilities are averaged.

    Args:
        width: D. num_classes: K. number: N heads. dropout: in front of each.
    """

    def __init__(self, width: int, num_classes: int, number: int, dropout: float) -> None:
        super().__init__()
        heads = [nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes)) for _ in range(number)]
        self.heads = nn.ModuleList(heads)

    def every(self, features: Tensor) -> Tensor:
        """Return the logits f[N,B,K] of each head for features f[B,D]."""
        return torch.stack([head(features) for head in self.heads])

    def forward(self, features: Tensor) -> Tensor:
        """Return the logarithm f[B,K] of the heads' mean probabilities."""
        logits = to_float32(self.every(features))
        return logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()


class ManySources(Plugin):
    """One encoder, a head for each source, one weak view of each side.

    Attributes:
        copies: heads of each source.
    """

    joint_forward = True
    training_parts: ClassVar[tuple[str, ...]] = ("adversary",)
    Settings: ClassVar[type[Settings]] = NetworkSettings
    copies: ClassVar[int] = 1
    settings: Any

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build backbone, bottleneck and heads, and what the method has beside them."""
        trunk = build_backbone(config.model)
        width = self.settings.bottleneck or trunk.channels
        branch: nn.Module = nn.Identity()
        if self.settings.bottleneck:
            branch = nn.Sequential(nn.Linear(trunk.channels, width), RowNorm(width), nn.ReLU())
        heads = {"main": self.head(width, num_classes, len(task.sources), config.model.dropout)}
        own = {} if self.settings.bottleneck else heads_on_backbone(heads)
        model = Model(trunk.module, {"main": branch}, heads, trunk.mean, trunk.std, own)
        for name, module in self.parts(width, task).items():
            self.attach(model, module, name)
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for one weakly augmented view of each side."""
        return [ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak")]

    def head(self, width: int, num_classes: int, sources: int, dropout: float) -> nn.Module:
        """Return the classifiers."""
        return Heads(width, num_classes, self.copies * sources, dropout)

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the modules that the method has beside the network, by name; width: D of the features."""
        return {}

    def supervised(self, model: Model, features: Tensor, source: DomainBatch) -> LossTerm:
        """Return the cross-entropy of each source with its own heads, added over its heads, the mean over sources."""
        heads, values = model.heads["main"], []
        assert isinstance(heads, Heads)
        for number, rows in own_rows(source):
            every = heads.every(features[rows])[number :: len(heads.heads) // self.copies]
            values.append(torch.stack([F.cross_entropy(z, source.labels[rows]) for z in to_float32(every)]).sum())
        return LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, torch.stack(values).mean())


def own_rows(source: DomainBatch) -> list[tuple[int, Tensor]]:
    """Return number and samples bool[B] of each source that is in the batch."""
    return [(number, source.domain == number) for number, count in enumerate(source.domain_counts()) if count]


def presets(name: str, *, paper: Mapping[str, Any] | None = None) -> dict[str, Mapping[str, Any]]:
    """Return a method's presets: the common setting and what it wants besides; small and demo have no bottleneck."""
    quick = {name: {"bottleneck": 0}}
    return {"paper": merge(PAPER, paper or {}), "small": quick, "demo": quick}
