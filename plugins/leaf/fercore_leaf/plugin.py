"""LEAF: Zhang et al., "Unveiling Two Sides of the Same Coin in Semi-supervised Facial Expression Recognition", 2024.
Written from the paper; where the authors' released code (zfkarl/LEAF) differs, a setting chooses, and
`variant = "official"` chooses for all of them.

A run's sources are the labelled images, its target the unlabelled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.losses import ambiguous_consistency, concave_weights, info_nce, labelled_thresholds, to_float32
from fercore.models import HeadOnBackbone, Model, build_backbone, encode_view, shrink
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    StepReport,
    ViewRequest,
    hookimpl,
    single_stage,
)
from fercore_leaf.levels import (
    build_mixture,
    candidates,
    mean_probs,
    scores,
    semantic_level,
    split_views,
    take_imbalance,
)
from fercore_leaf.presets import FROM_MODEL, PRESETS
from fercore_leaf.settings import LeafSettings
from fercore_leaf.state import RunState

Encode: TypeAlias = Callable[[Side], EncodedDataset]

BRANCH = "main"
Place: TypeAlias = tuple[Side, str]
LABELLED: Place = ("source", "weak")
WEAK: Place = ("target", "weak")
WEAK_2: Place = ("target", "weak2")
STRONG: Place = ("target", "strong")


class Leaf(Plugin):
    """One network, mixtures of experts on its features and predictions, and candidate classes for unlabelled images."""

    paper = "LEAF, 2024"
    training_parts = ("state",)
    Settings: ClassVar[type[Settings]] = LeafSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    from_model: ClassVar[Mapping[str, Any]] = FROM_MODEL
    settings: LeafSettings

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int) -> Model:
        """Build backbone, semantic level (the branch), classifier and instance level (the head)."""
        chosen, trunk = self.settings, build_backbone(config.model)
        branch = semantic_level(trunk.channels, chosen, mixture=chosen.eaf.semantic)
        layer = nn.Linear(trunk.channels, num_classes)
        head = nn.Sequential(layer)
        if config.model.dropout:
            head.insert(0, nn.Dropout(config.model.dropout))
        if chosen.eaf.instance and chosen.eaf.instance_on == "logits":
            head.append(build_mixture(num_classes, chosen))
        elif chosen.eaf.instance:
            head.insert(0, build_mixture(trunk.channels, chosen))
        # A trained head can go on behind experts that change nothing yet.
        clear = chosen.expert.start == "identity" or not (chosen.eaf.semantic or chosen.eaf.instance)
        trained = {BRANCH: HeadOnBackbone(layer, unit_length=chosen.feat_norm)} if clear else {}
        model = Model(trunk.module, {BRANCH: branch}, {BRANCH: head}, trunk.mean, trunk.std, trained)
        self.attach(model, RunState(num_classes, chosen.thresholds.floor))
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak view of the labelled samples and the views of the unlabelled ones that some term uses."""
        views = [ViewRequest(*LABELLED, "weak")]
        if self.settings.eaf.category or self._contrast:
            views += [ViewRequest(*place, "weak") for place in (WEAK, WEAK_2)[: self.settings.weak_views]]
        if self.settings.eaf.category:
            views.append(ViewRequest(*STRONG, "strong"))
        return views

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Train everything in one stage, for `epochs` where they are given."""
        stage = single_stage(config)
        (phase,) = stage.phases
        if self.settings.lr_scale:
            # The rate is given for 16 labelled samples a step.
            lr = phase.optimiser.lr * config.data.source_step / 16
            phase = replace(phase, optimiser=replace(phase.optimiser, lr=lr))
        stage = replace(stage, phases=(phase,))
        return [replace(stage, steps=0, epochs=self.settings.epochs) if self.settings.epochs else stage]

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str) -> Encoded:
        """Run the network; a strong view leaves no trace in the statistics that plain images are scored with."""
        return encode_view(model, batch.images[view], view, self.settings.statistics)

    @hookimpl
    def refresh(self, model: Model, clock: Progress, encode_dataset: Encode) -> dict[str, float] | None:
        """Renew the class thresholds from the labelled samples, and report the last epoch's candidates."""
        state, chosen = self.part(model, RunState), self.settings.thresholds
        report = state.take()
        if chosen.kind == "adaptive" and clock.epoch > 0:
            data = encode_dataset("source")
            probs = data.logits[BRANCH].float().softmax(-1)
            level = labelled_thresholds(probs, data.labels, clock.epoch, floor=chosen.floor, scale=chosen.scale)
            state.thresholds.copy_(level)
            report["mean_threshold"] = float(level.mean())
        return {f"{self.name}/{name}": value for name, value in report.items()} or None

    @hookimpl
    def pseudo_label(self, model: Model, encoded: Forward) -> PseudoLabels | None:
        """Return the choosing views' likeliest class, and the probabilities that the candidate classes come from.

        A sample that is not confident has weight 0 where anything asks for confidence; otherwise every sample counts.
        """
        if not (self.settings.eaf.category or self._contrast):
            return None
        teacher = self._views(encoded)["teacher"]
        # The label by the mean of the views' probabilities, the candidates by the mean of their logits.
        mean = torch.stack([mean_probs([logits]) for logits in teacher]).mean(0)
        top, labels = mean.max(-1)
        selected = torch.ones_like(top)
        if self.settings.cons.mask or self._contrast:
            selected = (top >= self.part(model, RunState).thresholds[labels]).to(top.dtype)
        return PseudoLabels(labels, selected, mean_probs(teacher))

    @hookimpl
    def align(self, encoded: Forward, pseudo: PseudoLabels | None) -> Sequence[LossTerm]:
        """Return the contrastive term over the samples that are not confident (released code), where it has weight."""
        if not self._contrast or pseudo is None:
            return []
        rest = pseudo.weight == 0
        first, second = (encoded[view].features[BRANCH][rest] for view in (WEAK, WEAK_2))
        # Cosines in half precision would be off by hundredths, and the temperature divides by hundredths.
        with torch.autocast(first.device.type, enabled=False):
            value = info_nce(to_float32(first), to_float32(second), self.settings.temperature)
        return [LossTerm(f"{self.name}/contrast", Role.CONTRASTIVE, value, self.settings.loss_weights[2])]

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None) -> Sequence[LossTerm]:
        """Return the cross-entropy of the labelled samples and the consistency of the unlabelled ones (Eq 1)."""
        chosen = self.settings
        logits = encoded[LABELLED].logits[BRANCH]
        value = F.cross_entropy(logits, batch.source.labels, label_smoothing=chosen.label_smoothing)
        terms = [LossTerm(f"{self.name}/supervised", Role.SUPERVISED, value, chosen.loss_weights[0])]
        if chosen.eaf.category and pseudo is not None:
            value = self._consistency(model, self._views(encoded)["student"], pseudo)
            weight = chosen.loss_weights[1] * chosen.lambda_
            terms.append(LossTerm(f"{self.name}/consistency", Role.CONSISTENCY, value, weight))
        imbalance = take_imbalance((model.branches, model.heads))
        if imbalance is not None:
            terms.append(LossTerm(f"{self.name}/balance", Role.REGULARISER, imbalance, chosen.gate.balance))
        return terms

    @hookimpl
    def after_step(self, model: Model, report: StepReport) -> None:
        """Decay the weights by shrink.rate times the learning rate."""
        if self.settings.shrink.rate:
            shrink(model, self.settings.shrink.rate * max(report.lr), buffers=self.settings.shrink.buffers)

    @property
    def _contrast(self) -> bool:
        return self.settings.loss_weights[2] > 0

    def _views(self, encoded: Forward) -> Mapping[str, list[Tensor]]:
        weak = [encoded[view].logits[BRANCH] for view in (WEAK, WEAK_2) if view in encoded]
        if STRONG not in encoded:
            return {"teacher": weak, "student": []}
        return split_views(weak, encoded[STRONG].logits[BRANCH], self.settings)

    def _consistency(self, model: Model, student: Sequence[Tensor], pseudo: PseudoLabels) -> Tensor:
        """Return L_u of Eq 14, or what the released code makes of it; a cross-entropy with consistency = "ce"."""
        cons, share = self.settings.cons, pseudo.weight.mean()
        positive = candidates(pseudo.probs, self.settings)
        self.part(model, RunState).add(positive, pseudo.weight > 0)
        hard = torch.stack([F.cross_entropy(to_float32(z), pseudo.labels, reduction="none") for z in student]).mean(0)
        if self.settings.consistency == "ce":
            return (hard * pseudo.weight).mean() if cons.mask else hard.mean()
        values = torch.stack(
            [ambiguous_consistency(scores(z, self.settings), positive, self.settings.epsilon) for z in student]
        ).mean(0)
        if cons.weight == "concave":
            values = values * concave_weights(pseudo.probs, positive).to(values.dtype)
        total = values.mean()
        if cons.rescale:
            # The rescaling is a constant: the value becomes the cross-entropy's, the gradient's direction stays.
            total = total * rescaling(hard.mean(), total)
        return total * share.to(total.dtype) if cons.mask else total


def rescaling(hard: Tensor, total: Tensor) -> Tensor:
    """Return the constant factor that gives `total` the value of `hard`; 1 where `total` is 0."""
    hard, total = hard.detach(), total.detach()
    some = total > 0
    return torch.where(some, hard / torch.where(some, total, torch.ones_like(total)), torch.ones_like(total))
