"""SHOT: "Do We Really Need to Access the Source Data?", Liang, Hu and Feng, ICML 2020; code tim-learn/SHOT, object/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import centroid_labels, class_divergence, class_shares, confidence_entropy
from fercore.models import Model, PseudoLabelRecord, SizedByData
from fercore.plugin import (
    Batch,
    EncodedDataset,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Role,
    Settings,
    TaskInfo,
    hookimpl,
)
from fercore_source_free.base import TARGET, HeadSettings, TrainedModel, features_of, log_probs_of
from fercore_source_free.presets import presets


class InformationSettings(HeadSettings):
    """Settings of methods that maximise information."""

    entropy: float = Field(1.0, ge=0, description="weight of L_ent, the mean entropy")
    diversity: float = Field(1.0, ge=0, description="weight of L_div, the negative entropy of the mean prediction")
    prior: Literal["uniform", "estimated"] = Field(
        "uniform", description="class shares that L_div goes to: equal, or the target's by expectation maximisation"
    )


class ShotSettings(InformationSettings):
    """Settings of shot."""

    pseudo: float = Field(0.3, ge=0, description="weight of the cross-entropy with labels by centroids; 0 = SHOT-IM")
    threshold: int = Field(0, ge=0, description="predictions of a class up to which it takes no part in the labels")
    rounds: int = Field(2, ge=1, description="assignments to centroids at each renewal of the labels")


class Informed(TrainedModel):
    """Information maximisation: sure of each image, and of all classes over all images."""

    Settings: ClassVar[type[Settings]] = InformationSettings

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the class shares that predictions are spread by."""
        classes = len(task.classes)
        return {"state": SizedByData({"prior": torch.full((classes,), 1 / classes)})}

    @property
    def evens(self) -> bool:
        """Whether it spreads predictions over all classes alike."""
        return bool(self.settings.diversity > 0 and self.settings.prior == "uniform")

    def renew(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Estimate class shares, and label the target anew."""
        if self.settings.prior == "estimated":
            prior = self.part(model, SizedByData, "state").get_buffer("prior")
            prior.copy_(class_shares(log_probs.exp(), torch.full_like(prior, 1 / len(prior))))
        return self.relabel(model, encoded, log_probs, clock)

    def relabel(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Label the target for an epoch, where the method does; returns numbers for the log."""
        return {}

    def information(self, model: Model, log_probs: Tensor) -> list[LossTerm]:
        """Return L_ent and L_div of log-probabilities f[B,K], each where it has a weight."""
        chosen, terms = self.settings, []
        prior = self.part(model, SizedByData, "state").get_buffer("prior") if chosen.prior == "estimated" else None
        if chosen.entropy:
            value = confidence_entropy(log_probs)
            terms.append(LossTerm(f"{self.name}/entropy", Role.REGULARISER, value, chosen.entropy))
        if chosen.diversity:
            value = class_divergence(log_probs, prior)
            terms.append(LossTerm(f"{self.name}/diversity", Role.REGULARISER, value, chosen.diversity))
        return terms


class SHOT(Informed):
    """The classifier stays; features come to be such that it is sure of each image and of all classes."""

    paper = "Liang et al., ICML 2020"
    Settings: ClassVar[type[Settings]] = ShotSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("shot")
    settings: ShotSettings

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return class shares, and the labels by centroids."""
        return {**super().parts(model, task), "record": PseudoLabelRecord(len(task.classes))}

    def relabel(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Label the target by class centroids."""
        if not self.settings.pseudo:
            return {}
        probs = log_probs.exp()
        threshold, rounds = self.settings.threshold, self.settings.rounds
        labels = centroid_labels(features_of(encoded), probs, threshold=threshold, rounds=rounds)
        hard = F.one_hot(labels, probs.shape[1]).to(probs.dtype)
        self.part(model, PseudoLabelRecord, "record").write(hard, torch.ones_like(labels, dtype=probs.dtype))
        return {f"{self.name}/relabelled": float((labels != probs.argmax(1)).float().mean())}

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch) -> PseudoLabels | None:
        """Look the batch's labels up."""
        if not self.settings.pseudo:
            return None
        record = self.part(model, PseudoLabelRecord, "record")
        probs = record.probs[batch.target.index]
        return PseudoLabels(probs.argmax(1), record.weight[batch.target.index], probs)

    @hookimpl
    def loss(self, model: Model, encoded: Forward, pseudo: PseudoLabels | None) -> Sequence[LossTerm]:
        """Return L_ent, L_div and the cross-entropy with the labels."""
        log_probs = log_probs_of(encoded[TARGET])
        terms = self.information(model, log_probs)
        if pseudo is not None:
            value = F.nll_loss(log_probs, pseudo.labels)
            terms.append(LossTerm(f"{self.name}/pseudo_labels", Role.CONSISTENCY, value, self.settings.pseudo))
        return terms
