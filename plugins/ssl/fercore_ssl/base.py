"""What the methods share: network, views, the supervised term, pseudo labels by confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import UnitLength, to_float32, weighted_cross_entropy
from fercore.models import Model, StatisticsOf, build_classifier, encode_view
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Side,
    TaskInfo,
    Transform,
    ViewRequest,
    hookimpl,
)
from fercore_ssl.presets import COMMON

TRANSFORMS: Mapping[str, Transform] = {"weak": "weak", "weak2": "weak", "strong": "strong", "strong2": "strong"}


class SslSettings(Settings):
    """Settings of every method."""

    lambda_u: float = Field(1.0, ge=0, description="weight of the unlabelled term")
    statistics: StatisticsOf = Field(
        "weak", description="views whose batch statistics the network keeps for evaluation"
    )


class SemiSupervised(Plugin):
    """Cross-entropy on the labelled samples and one consistency term on the unlabelled ones.

    Attributes:
        views: views of the unlabelled samples that the method needs. source_views: of the labelled ones.
    """

    Settings: ClassVar[type[Settings]] = SslSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = COMMON
    training_parts: ClassVar[tuple[str, ...]] = ("state",)
    views: ClassVar[tuple[str, ...]] = ("weak", "strong")
    source_views: ClassVar[tuple[str, ...]] = ("weak",)
    settings: Any

    def goes_by_length(self) -> str:
        """The rise of the unlabelled term does, where a method has one (`warm_up`)."""
        return "unsup_warm_up" if getattr(self.settings, "unsup_warm_up", 0) else ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build backbone and linear head, as `source_only` does, and the method's state and parts."""
        branch = self.branch()
        unit_length = any(isinstance(module, UnitLength) for module in branch.modules())
        model = build_classifier(config.model, num_classes, branch=branch, unit_length=unit_length)
        state = self.state(num_classes)
        if state is not None:
            self.attach(model, state)
        linear = model.heads["main"].get_submodule("1")
        assert isinstance(linear, nn.Linear)
        for name, module in self.parts(linear.in_features, task).items():
            self.attach(model, module, name)
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak view of the labelled samples and the method's views of the unlabelled ones."""
        labelled = [ViewRequest("source", name, TRANSFORMS[name]) for name in self.source_views]
        return [*labelled, *(ViewRequest("target", name, TRANSFORMS[name]) for name in self.views)]

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str) -> Encoded:
        """Run the network; a strong view leaves no trace in the statistics that plain images are scored with."""
        return encode_view(model, batch.images[view], view, self.settings.statistics)

    @hookimpl
    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return the supervised term, the consistency term, and what else the method has."""
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            return self.terms(model, batch, encoded, pseudo, clock)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return the loss terms of a step."""
        raise NotImplementedError

    def branch(self) -> nn.Module:
        """Return what stands between pooled features f[B,D] and the head."""
        return nn.Identity()

    def state(self, num_classes: int) -> nn.Module | None:
        """Return the module whose buffers are what the method keeps between steps; None = nothing."""
        return None

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the modules that the method trains, or fills by the data, beside the network; width: D of features."""
        return {}

    def _supervised(self, value: Tensor, weight: float = 1.0) -> LossTerm:
        return LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, value, weight)

    def _consistency(self, value: Tensor, weight: float | None = None) -> LossTerm:
        # Not `weight or ...`: a ramp that stands at 0 must stay 0.
        chosen = self.settings.lambda_u if weight is None else weight
        return LossTerm(f"{self.name}/consistency", Role.CONSISTENCY, value, chosen)


class ThresholdSettings(SslSettings):
    """Settings of methods that train the strong view on the weak view's confident predictions."""

    T: float = Field(0.5, gt=0, description="temperature of soft pseudo labels")
    hard_label: bool = Field(True, description="pseudo labels are classes; false = sharpened probabilities")


class CutoffSettings(ThresholdSettings):
    """Settings of methods with a threshold on the confidence."""

    p_cutoff: float = Field(0.95, gt=0, le=1, description="least probability of a pseudo label")


class ThresholdMethod(SemiSupervised):
    """FixMatch's scheme: the weak view labels a sample, a weight says how far to trust it, the strong view learns."""

    Settings: ClassVar[type[Settings]] = ThresholdSettings

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
        """Label the unlabelled samples by their weak view, and weigh them."""
        probs = logits(encoded, "target", "weak").softmax(-1)
        # The method may align the probabilities: labels come from what it returns, not from the view's own.
        weight, probs = self.trusted(model, batch, encoded, probs)
        labels = probs.argmax(-1)
        return PseudoLabels(labels, weight.to(probs.dtype), probs if self.hard else tempered(probs, self.settings.T))

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return each sample's weight f[B] in [0,1], and the probabilities f[B,K] its pseudo label comes from.

        Args:
            probs: f[B,K] of the weak view.
        """
        raise NotImplementedError

    @property
    def hard(self) -> bool:
        """Whether pseudo labels are classes."""
        return bool(self.settings.hard_label)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy of the labelled samples, and of the strong view with the pseudo labels."""
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        if pseudo is None:
            return [self._supervised(supervised)]
        targets = pseudo.labels if self.hard else pseudo.probs
        unlabelled = weighted_cross_entropy(logits(encoded, "target", "strong"), targets, pseudo.weight)
        return [self._supervised(supervised), self._consistency(unlabelled)]


def logits(encoded: Forward, side: Side, view: str) -> Tensor:
    """Return the logits f[B,K] of one view, in float32 at least."""
    return to_float32(encoded[side, view].logits["main"])


def tempered(probs: Tensor, temperature: float) -> Tensor:
    """Return softmax(logits / temperature) of the logits that gave the probabilities f[B,K]."""
    # The logits but for a constant of each row, which softmax drops.
    return (probs.clamp_min(torch.finfo(probs.dtype).tiny).log() / temperature).softmax(-1)


def warm_up(clock: Progress, share: float) -> float:
    """Return the linear rise from 0 to 1 over a share of the stage; 1 throughout for a share of 0."""
    return 1.0 if share == 0 else min(1.0, clock.step / (share * clock.total_steps))
