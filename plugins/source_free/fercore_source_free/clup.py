"""CluP: "Cluster-level pseudo-labelling for source-free cross-domain facial expression recognition", Conti et al.,
BMVC 2022; code altndrr/clup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Beta
from torch.utils.data import Sampler

from fercore.losses import cluster_votes, purest
from fercore.models import Model, PseudoLabelRecord
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
    UserInputError,
    hookimpl,
    say,
)
from fercore_source_free.base import TARGET, VIEW, TrainedModel, TrainedSettings, features_of, log_probs_of
from fercore_source_free.presets import presets

FEW = 2000
"""Images below which the number of clusters follows from theirs."""


class ClupSettings(TrainedSettings):
    """Settings of clup."""

    clusters: int | None = Field(None, ge=2, description="of the target; None = 1000, fewer for under 2000 images")
    share: float = Field(0.1, gt=0, le=1, description="of each class that is kept, the purest first")
    smallest: int = Field(1, ge=1, description="samples that a cluster needs to be trusted")
    labels: Literal["hard", "soft"] = Field("hard", description="a cluster's class, or its shares of classes")
    drop_outliers: bool = Field(False, description="never trust a sample that is predicted unlike its cluster")
    mixup: float = Field(0.2, ge=0, description="of the Beta distribution that images are mixed by; 0 = none")


class CluP(TrainedModel):
    """Clusters of the target vote on a label; the purest samples teach the network, which is renewed all through."""

    paper = "Conti et al., BMVC 2022"
    training_parts = ("record", "outset")
    Settings: ClassVar[type[Settings]] = ClupSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "clup",
        {
            "data": {"target_batch": 32},
            "optim": {"schedule": "cosine", "weight_decay": 5e-4, "backbone_multiplier": 1.0},
        },
        epochs=50,
    )
    settings: ClupSettings

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the labels of the clusters."""
        return {"record": PseudoLabelRecord(len(task.classes))}

    def renew(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Cluster the target once, and keep the purest samples of each class."""
        if clock.step:
            return {}
        chosen, n, classes = self.settings, len(log_probs), log_probs.shape[1]
        number = chosen.clusters or (1000 if n >= FEW else max(2 * classes, n // 10))
        if not classes < number <= n:
            what = f"{number} clusters of {n} images for {classes} classes"
            fix = f"take more than {classes} and no more than the images: --set {self.name}.clusters=NUMBER"
            raise UserInputError(what, where=f"{self.name}.clusters", fix=fix)
        clusters = k_means(features_of(encoded), number)
        predicted = log_probs.argmax(1)
        labels, purity = cluster_votes(clusters, predicted, classes, smallest=chosen.smallest)
        if chosen.drop_outliers:
            purity = purity * (predicted == labels)
        kept = purest(labels, purity, chosen.share)
        probs = F.one_hot(labels, classes).to(log_probs.dtype)
        if chosen.labels == "soft":
            one_hot = F.one_hot(predicted, classes).to(log_probs.dtype)
            shares = torch.zeros(number, classes, device=labels.device).index_add_(0, clusters, one_hot)
            probs = (shares / shares.sum(1, keepdim=True).clamp_min(1))[clusters]
        self.part(model, PseudoLabelRecord, "record").write(probs, kept.to(probs.dtype))
        say(f"{self.name}: {int(kept.sum())} of {n} images teach, chosen by {number} clusters")
        return {f"{self.name}/kept": float(kept.sum()), f"{self.name}/purity": float(purity.mean())}

    @hookimpl
    def build_sampler(self, model: Model, side: Side) -> Sampler[int] | None:
        """Draw the samples that teach, and no other."""
        kept = self.part(model, PseudoLabelRecord, "record").weight.nonzero().flatten().cpu()
        return Reshuffled(kept) if side == "target" and len(kept) else None

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch) -> PseudoLabels:
        """Look the batch's labels up."""
        record = self.part(model, PseudoLabelRecord, "record")
        probs = record.probs[batch.target.index]
        return PseudoLabels(probs.argmax(1), record.weight[batch.target.index], probs)

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels) -> Sequence[LossTerm]:
        """Return the cross-entropy of mixed images with labels mixed alike."""
        log_probs, labels = log_probs_of(encoded[TARGET]), pseudo.probs
        if self.settings.mixup:
            alpha = torch.tensor(self.settings.mixup)
            factor = float(Beta(alpha, alpha).sample())  # on the CPU: the run's generator decides on every device
            images = batch.target.images[VIEW]
            order = torch.randperm(len(images)).to(images.device)
            log_probs = log_probs_of(model(torch.lerp(images[order], images, factor)))
            labels = torch.lerp(labels[order], labels, factor)
        value = -(labels * log_probs).sum(1).mean()
        return [LossTerm(f"{self.name}/cross_entropy", Role.CONSISTENCY, value)]


class Reshuffled(Sampler[int]):
    """Endless order over some samples, shuffled anew after each pass by torch's global generator.

    Args:
        members: int64[n] positions.
    """

    def __init__(self, members: Tensor) -> None:
        self.members = members

    def __iter__(self) -> Iterator[int]:
        """Yield positions."""
        while True:
            yield from self.members[torch.randperm(len(self.members))].tolist()


def k_means(features: Tensor, number: int) -> Tensor:
    """Return the cluster int64[N] of features f[N,D], as [f; 1] of unit length; seeded by torch's global generator."""
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (1,)))
    rows = torch.cat([features, features.new_ones(len(features), 1)], 1)
    rows = (rows / rows.norm(dim=1, keepdim=True)).cpu()
    clusters = KMeans(number, n_init=1, random_state=seed).fit_predict(rows.double().numpy())
    return torch.from_numpy(clusters).long().to(features.device)
