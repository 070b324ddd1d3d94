"""CAN (Kang et al., CVPR 2019): domains meet class by class, target classes by clusters that start at the source's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Sampler

from fercore.losses import pair_contrast, spherical_clusters, to_float32
from fercore.models import Model, SizedByData
from fercore.ops import class_mmd
from fercore.plugin import Batch, EncodedDataset, Forward, LossTerm, Progress, Role, Settings, Side, TaskInfo, hookimpl
from fercore_uda.base import SOURCE, TARGET, NetworkSettings, SourceTrained, mean_of
from fercore_uda.kernels import Kernel
from fercore_uda.presets import presets


class CanSettings(Kernel, NetworkSettings):
    """Settings of can_cdd."""

    weight: float = Field(0.3, ge=0, description="weight of the term")
    radius: float = Field(1.0, gt=0, le=1, description="largest (1 - cos) / 2 from its centre of a sample that counts")
    least: int = Field(3, ge=1, description="samples that a cluster needs to take part")
    per_class: int = Field(3, ge=1, description="samples of a class that follow each other in the batches")


class CAN(SourceTrained):
    """Equal classes of both sides are drawn together and different ones apart, the target's by clusters."""

    paper = "Kang et al., CVPR 2019"
    training_parts = ("clusters",)
    Settings: ClassVar[type[Settings]] = CanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "can_cdd", paper={"data": {"source_batch": 30, "target_batch": 30}, "optim": {"lr": 0.01, "gamma": 20.0}}
    )
    settings: CanSettings

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the target's labels by clusters, -1 where a sample does not count."""
        return {"clusters": SizedByData({"labels": torch.zeros(0, dtype=torch.int64)})}

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]
    ) -> dict[str, float]:
        """Cluster the target from the source's class means, and drop far samples and small clusters."""
        source, target = encode_dataset("source"), encode_dataset("target")
        x, y = (to_float32(side.features["main"]) for side in (source, target))
        classes = source.logits["main"].shape[1]
        labels, distance = spherical_clusters(y, x, source.labels, classes)
        # Far from its centre a sample is as near to another; a cluster of one or two says nothing of its class.
        labels = labels.masked_fill(distance >= self.settings.radius, -1)
        small = torch.bincount(labels[labels >= 0], minlength=classes) < self.settings.least
        labels = labels.masked_fill((labels >= 0) & small[labels], -1)
        self.part(model, SizedByData, "clusters").put("labels", labels)
        return {f"{self.name}/clustered": float((labels >= 0).sum()), f"{self.name}/classes": float((~small).sum())}

    @hookimpl
    def build_sampler(self, model: Model, dataset: Any, side: Side) -> Sampler[int] | None:
        """Draw classes in turns on both sides, of those that the target has a cluster of."""
        clusters = self.part(model, SizedByData, "clusters").get_buffer("labels").cpu()
        labels = clusters if side == "target" else torch.as_tensor(dataset.labels)
        # The same classes on both sides, so that every batch has pairs to contrast.
        kept = torch.bincount(clusters[clusters >= 0]).nonzero().flatten()
        return ClassTurns(labels, kept, self.settings.per_class) if len(kept) else None

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return the contrastive discrepancy of features and of predictions, added; none without a shared class."""
        clusters = self.part(model, SizedByData, "clusters").get_buffer("labels")[batch.target.index]
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            x, zx = (to_float32(each["main"]) for each in (encoded[SOURCE].features, encoded[SOURCE].logits))
            y, zy = (to_float32(each["main"]) for each in (encoded[TARGET].features, encoded[TARGET].logits))
            layers = (x, y), (zx.softmax(-1), zy.softmax(-1))
            values = []
            for rows in self.rows(batch.source):
                labels = batch.source.labels[rows]
                pairs = [
                    class_mmd(a[rows], b, labels, clusters, zx.shape[1], **self.settings.kernel) for a, b in layers
                ]
                values.append(torch.stack([pair_contrast(v[None], both[None])[0].sum() for v, both in pairs]).sum())
        return [LossTerm(f"{self.name}/contrast", Role.ALIGNMENT, mean_of(values), self.settings.weight)]


class ClassTurns(Sampler[int]):
    """Endless order that takes some samples of each class in turns, classes in a new order each round.

    Args:
        labels: int64[N], -1 = never drawn. classes: those that take turns. per_class: samples of a class at a time.
    """

    def __init__(self, labels: Tensor, classes: Tensor, per_class: int) -> None:
        self.labels, self.classes, self.per_class = labels, classes, per_class

    def __iter__(self) -> Iterator[int]:
        """Yield positions, drawing from torch's global generator."""
        members = {int(c): _reshuffled((self.labels == c).nonzero().flatten()) for c in self.classes}
        while True:
            for c in self.classes[torch.randperm(len(self.classes))].tolist():
                for _ in range(self.per_class):
                    yield next(members[c])


def _reshuffled(members: Tensor) -> Iterator[int]:
    while True:
        yield from members[torch.randperm(len(members))].tolist()
