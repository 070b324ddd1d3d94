"""ATDOC (Liang et al., CVPR 2021): target samples learn the class that others of the target have, kept in a bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import neighbour_labels, to_float32, unit
from fercore.models import Model, SizedByData
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
from fercore_uda.base import TARGET, VIEW, NetworkSettings, SourceTrained
from fercore_uda.evaluating import in_evaluation
from fercore_uda.presets import presets


class AtdocSettings(NetworkSettings):
    """Settings of atdoc."""

    labels: Literal["neighbours", "centres"] = Field("neighbours", description="ATDOC-NA, or ATDOC-NC")
    weight: float = Field(0.2, ge=0, description="at the end of training; the released code has 0.1 for centres")
    nearest: int = Field(5, ge=1, description="neighbours that give a label")
    momentum: float = Field(0.1, gt=0, le=1, description="share of a batch's own mean in a centre")


class ATDOC(SourceTrained):
    """Target samples learn the class of their neighbours in a bank of the target, or of the nearest centre."""

    paper = "Liang et al., CVPR 2021"
    training_parts = ("bank",)
    Settings: ClassVar[type[Settings]] = AtdocSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "atdoc", paper={"data": {"source_batch": 36, "target_batch": 36}, "optim": {"gamma": 10.0}}
    )
    settings: AtdocSettings

    def goes_by_length(self) -> str:
        """The weight does, which rises with the steps done."""
        return "weight"

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the bank: features and class shares of each target sample, or a centre for each class."""
        classes = len(task.classes)
        if self.settings.labels == "centres":
            return {"bank": SizedByData({"centres": torch.zeros(classes, width)})}
        return {"bank": SizedByData({"features": torch.zeros(0, width), "shares": torch.zeros(0, classes)})}

    @hookimpl
    def refresh(self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]) -> None:
        """Fill the bank before the first step."""
        if clock.step:
            return
        target, bank = encode_dataset("target"), self.part(model, SizedByData, "bank")
        features, probs = to_float32(target.features["main"]), to_float32(target.logits["main"]).softmax(-1)
        if self.settings.labels == "centres":
            bank.get_buffer("centres").copy_(_class_means(features, probs)[0])
        else:
            bank.put("features", unit(features))
            bank.put("shares", _balanced(probs))

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels:
        """Label the batch from the bank; then put the batch's features in evaluation mode into it."""
        bank, features = self.part(model, SizedByData, "bank"), unit(to_float32(encoded[TARGET].features["main"]))
        # The bank holds features as evaluation has them: dropout and batch statistics would make neighbours noisy.
        now = in_evaluation(model, batch.target.images[VIEW])
        own, probs = to_float32(now.features["main"]), to_float32(now.logits["main"]).softmax(-1)
        if self.settings.labels == "centres":
            centres = bank.get_buffer("centres")
            scores = (features @ unit(centres).T).softmax(-1)
            means, present = _class_means(own, probs)
            centres.copy_(torch.where(present[:, None], torch.lerp(centres, means, self.settings.momentum), centres))
            return PseudoLabels(scores.argmax(-1), torch.ones_like(scores[:, 0]), scores)
        kept, shares = bank.get_buffer("features"), bank.get_buffer("shares")
        mean = neighbour_labels(features, kept, shares, batch.target.index, self.settings.nearest)
        # After the labels are taken: a batch is compared with the bank as earlier ones left it.
        kept[batch.target.index], shares[batch.target.index] = unit(own), _balanced(probs)
        return PseudoLabels(mean.argmax(-1), mean.amax(-1), mean / mean.sum(-1, keepdim=True))

    @hookimpl
    def loss(  # type: ignore[override]
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return the cross-entropy of the source, and that of the target with its labels, weighted by their shares."""
        values = F.cross_entropy(to_float32(encoded[TARGET].logits["main"]), pseudo.labels, reduction="none")
        total = pseudo.weight.sum()
        # No sample may be sure of anything at first; the least float then makes the term 0 instead of NaN.
        value = pseudo.weight @ values / total.clamp_min(torch.finfo(total.dtype).tiny)
        weight = self.settings.weight * clock.progress
        return [
            *super().loss(model, batch, encoded, clock),
            LossTerm(f"{self.name}/pseudo_labels", Role.CONSISTENCY, value, weight),
        ]


def _balanced(probs: Tensor) -> Tensor:
    """Return p^2 of f[N,K], each class scaled to sum 1 over the samples."""
    # Squares favour sure predictions; the scale keeps a large class from labelling everything.
    return probs.square() / probs.square().sum(0)


def _class_means(features: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean feature f[K,D] of each predicted class, 0 for one that is not, and which are: bool[K]."""
    member = F.one_hot(probs.argmax(-1), probs.shape[1]).to(features.dtype)
    count = member.sum(0)
    return member.T @ features / count.clamp_min(1)[:, None], count > 0
