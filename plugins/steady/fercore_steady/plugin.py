"""Steady: adaptation from a source model, of parts that other methods have proved; see the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses import (
    class_confusion,
    class_divergence,
    confidence_entropy,
    mutual_consistency,
    to_float32,
    weighted_cross_entropy,
)
from fercore.models import (
    ClassShares,
    Model,
    PseudoLabelRecord,
    Teacher,
)
from fercore.plugin import (
    Batch,
    Encoded,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    TaskInfo,
    ViewRequest,
    hookimpl,
)
from fercore_steady.network import build_views
from fercore_steady.settings import PRESETS, SteadySettings
from fercore_steady.trust import Confidences, target_shares

WEAK, STRONG = "weak", "strong"


class Steady(Plugin):
    """The target's statistics, information under estimated class shares, two views that agree, a teacher's labels."""

    training_parts: ClassVar[tuple[str, ...]] = ("state", "shares", "record", "teacher")
    Settings: ClassVar[type[Settings]] = SteadySettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    settings: SteadySettings

    def goes_by_length(self) -> str:
        """The rise of the target's terms does."""
        return "warm_up" if self.settings.warm_up else ""

    def needs_whole_weights(self) -> str:
        """It averages the weights by itself, for a teacher."""
        return "its teacher is an average of all weights" if self.settings.teacher else ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build backbone and heads, and what is kept between steps."""
        model = build_views(config, num_classes, two=self.settings.views == "two")
        self.attach(model, Confidences(num_classes))
        self.attach(model, ClassShares(task), "shares")
        record = PseudoLabelRecord(num_classes)
        record.write(torch.zeros(task.target.n, num_classes), torch.zeros(task.target.n))
        self.attach(model, record, "record")
        self.attach(model, Teacher(), "teacher")
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak view of each side, and a strong one of the target where it is used.

        The target's weak views alone leave a trace in the batch statistics.
        """
        both = self.settings.statistics == "both"
        strong = [ViewRequest("target", STRONG, "strong", batch_statistics=False)] if self.settings.consistency else []
        source = ViewRequest("source", WEAK, "weak", batch_statistics=both)
        return [source, ViewRequest("target", WEAK, "weak"), *strong]

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward) -> PseudoLabels | None:
        """Label the target by the teacher's weak view, and weigh each label by how sure the teacher is of its class."""
        chosen = self.settings
        own = encoded["target", WEAK]
        answer = (
            self.part(model, Teacher, "teacher").encode(model, batch.target.images[WEAK]) if chosen.teacher else own
        )
        probs = mean_probs(answer)
        weight = self.part(model, Confidences).weigh(probs, chosen)
        record = self.part(model, PseudoLabelRecord, "record")
        record.probs[batch.target.index] = probs.to(record.probs.dtype)
        record.weight[batch.target.index] = weight.to(record.weight.dtype)
        return PseudoLabels(probs.argmax(-1), weight, probs)

    @hookimpl
    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return the source's cross-entropy, and the target's terms, each the mean over the views."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            source, target = logits_of(encoded["source", WEAK]), logits_of(encoded["target", WEAK])
            supervised = mean_of([F.cross_entropy(z, batch.source.labels) for z in source])
            terms = [LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, supervised)]
            if len(batch.target):
                terms += self._of_target(model, target, clock)
            if pseudo is not None and self.settings.consistency and len(batch.target):
                strong = logits_of(encoded["target", STRONG])
                value = mean_of([weighted_cross_entropy(z, pseudo.labels, pseudo.weight.to(z)) for z in strong])
                terms.append(self._term("consistency", Role.CONSISTENCY, value, self.settings.consistency, clock))
            return terms

    def _of_target(self, model: Model, target: Sequence[Tensor], clock: Progress) -> list[LossTerm]:
        chosen, logs = self.settings, [z.log_softmax(-1) for z in target]
        terms = []
        if chosen.entropy:
            value = mean_of([confidence_entropy(log) for log in logs])
            terms.append(self._term("entropy", Role.REGULARISER, value, chosen.entropy, clock))
        if chosen.diversity:
            prior = self._prior(model)
            value = mean_of([class_divergence(log, prior) for log in logs])
            terms.append(self._term("diversity", Role.REGULARISER, value, chosen.diversity, clock))
        if chosen.confusion:
            value = mean_of([class_confusion(z, chosen.temperature) for z in target])
            terms.append(self._term("confusion", Role.REGULARISER, value, chosen.confusion, clock))
        if chosen.agreement and len(target) > 1:
            value = mutual_consistency(target[0], target[1])
            terms.append(self._term("agreement", Role.CONSISTENCY, value, chosen.agreement, clock))
        return terms

    def _prior(self, model: Model) -> Tensor | None:
        """Return the class shares f[K] that predictions go to; None = equal ones."""
        shares = self.part(model, ClassShares, "shares")
        return {"uniform": None, "source": shares.source, "estimated": shares.target}[self.settings.prior]

    def _term(self, name: str, role: Role, value: Tensor, weight: float, clock: Progress) -> LossTerm:
        return LossTerm(f"{self.name}/{name}", role, value, weight * risen(clock, self.settings.warm_up))

    @hookimpl
    def after_step(self, model: Model, clock: Progress) -> None:
        """Move the teacher, and estimate the class shares anew where it is time."""
        chosen = self.settings
        if chosen.teacher:
            self.part(model, Teacher, "teacher").follow(model, chosen.teacher)
        if chosen.prior != "estimated" or (clock.step + 1) % chosen.prior_every:
            return
        record, shares = self.part(model, PseudoLabelRecord, "record"), self.part(model, ClassShares, "shares")
        # A row that sums to 0 has not come yet.
        seen = record.probs[record.probs.sum(1) > 0]
        if len(seen):
            shares.target.copy_(target_shares(seen, shares.source, chosen.prior_trust))


def logits_of(encoded: Encoded) -> list[Tensor]:
    """Return the logits f[B,K] of every view, in float32 at least."""
    return [to_float32(z) for z in encoded.logits.values()]


def mean_probs(encoded: Encoded) -> Tensor:
    """Return the mean over the views of the class probabilities f[B,K]."""
    return torch.stack([z.softmax(-1) for z in logits_of(encoded)]).mean(0)


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of scalars, at least one."""
    return torch.stack([*values]).mean()


def risen(clock: Progress, share: float) -> float:
    """Return the linear rise from 0 to 1 over a share of the stage; 1 throughout for a share of 0."""
    return 1.0 if not share else min(1.0, clock.step / (share * clock.total_steps))
