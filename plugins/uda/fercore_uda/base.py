"""What the methods share: network, views, the supervised term, and which domains a term compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import class_shares, ramp, to_float32
from fercore.models import ClassShares, Model, RowNorm, build_backbone, heads_on_backbone, source_weights
from fercore.plugin import (
    Batch,
    DomainBatch,
    EncodedDataset,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    Role,
    RunConfig,
    Settings,
    Side,
    TaskInfo,
    ViewRequest,
    hookimpl,
)

VIEW = "weak"
SOURCE: tuple[Side, str] = ("source", VIEW)
TARGET: tuple[Side, str] = ("target", VIEW)


class NetworkSettings(Settings):
    """Settings of every method."""

    bottleneck: int = Field(256, ge=0, description="width of the layer between backbone and head; 0 = none")
    sources: Literal["pooled", "apart"] = Field(
        "pooled", description="take all sources as one, or each by itself, so that the mean over sources counts"
    )


class TermSettings(NetworkSettings):
    """Settings of methods with one term beside the cross-entropy."""

    weight: float = Field(1.0, ge=0, description="weight of the method's term")
    ramp: bool = Field(False, description="let it rise as 2 / (1 + e^(-10 progress)) - 1")


@dataclass(frozen=True)
class Pair:
    """What a term compares, in float32 at least.

    Attributes:
        x, y: features f[B,D] of the source and f[M,D] of the target.
        zx, zy: logits f[B,K], f[M,K].
        labels: int64[B]. weights: f[B], constants that sum to 1: uniform, or by the estimated class shares.
        index: int64[M] of the target.
    """

    x: Tensor
    y: Tensor
    zx: Tensor
    zy: Tensor
    labels: Tensor
    weights: Tensor
    index: Tensor

    @property
    def uniform(self) -> Tensor:
        """Equal weights f[M] of the target's samples, which sum to 1."""
        return self.y.new_full((len(self.y),), 1 / len(self.y))


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of scalars, at least one."""
    return torch.stack([*values]).mean()


class SourceTrained(Plugin):
    """A network with a bottleneck, one view of each side, and cross-entropy on the source."""

    # The bottleneck norms each row by itself: a joint forward gives what one a side does.
    joint_forward = True
    training_parts: ClassVar[tuple[str, ...]] = ("prior", "adversary")
    Settings: ClassVar[type[Settings]] = NetworkSettings
    settings: Any

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build backbone, bottleneck and head, and what the method has beside them."""
        trunk = build_backbone(config.model)
        width = self.settings.bottleneck or trunk.channels
        branch = self.branch(trunk.channels) if self.settings.bottleneck else nn.Identity()
        heads = {"main": self.head(width, num_classes, config.model.dropout)}
        own = {} if self.settings.bottleneck else heads_on_backbone(heads)
        model = Model(trunk.module, {"main": branch}, heads, trunk.mean, trunk.std, own)
        for name, module in self.parts(width, task).items():
            self.attach(model, module, name)
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for one weakly augmented view of each side."""
        return [ViewRequest("source", VIEW, "weak"), ViewRequest("target", VIEW, "weak")]

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the cross-entropy of the source samples."""
        value = self.supervised(encoded[SOURCE].logits["main"], batch.source)
        return [LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, value)]

    def supervised(self, logits: Tensor, source: DomainBatch) -> Tensor:
        """Return the cross-entropy of logits f[B,K] of the source's samples, the mean over what stands apart."""
        values = F.cross_entropy(to_float32(logits), source.labels, reduction="none")
        return mean_of([values[rows].mean() for rows in self.rows(source)])

    def rows(self, source: DomainBatch) -> list[Any]:
        """Return which samples of the source belong together: all, or those of each domain in the batch."""
        counts = source.domain_counts()
        if self.settings.sources == "pooled" or len(counts) < 2:
            return [slice(None)]
        return [source.domain == number for number, count in enumerate(counts) if count]

    def branch(self, channels: int) -> nn.Module:
        """Return what stands between pooled features f[B,C] and the head."""
        width = self.settings.bottleneck
        return nn.Sequential(nn.Linear(channels, width), RowNorm(width), nn.ReLU())

    def head(self, width: int, num_classes: int, dropout: float) -> nn.Module:
        """Return the classifier f[B,D] -> f[B,K]."""
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the modules that the method has beside the network, by name.

        Args:
            width: D, of the features. task: the classes.
        """
        return {}


class Adaptation(SourceTrained):
    """One term beside the cross-entropy, that brings source and target together or sharpens the target.

    Attributes:
        role, term_name: of that term.
        of_target: whether the term is of the target alone, whatever the sources are.
        uses_prior: whether the term weighs source samples by class, whatever `align.class_weights` says.
    """

    Settings: ClassVar[type[Settings]] = TermSettings
    role: ClassVar[Role] = Role.ALIGNMENT
    term_name: ClassVar[str] = "alignment"
    of_target: ClassVar[bool] = False
    uses_prior: ClassVar[bool] = False

    def goes_by_length(self) -> str:
        """A weight that rises does."""
        return "ramp" if self.settings.ramp else ""

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the class shares, where they are used."""
        return {"prior": ClassShares(task)} if self.uses_prior else {}

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]
    ) -> dict[str, float] | None:
        """Estimate the target's class shares after each epoch, where they are used."""
        # Before the first step the head is random: the shares of its predictions would say nothing.
        if not self.uses_prior or clock.step == 0:
            return None
        state = self.part(model, ClassShares, "prior")
        probs = to_float32(encode_dataset("target").logits["main"]).softmax(-1)
        shares = state.take_in(class_shares(probs, state.source))
        return {f"{self.name}/share_{name}": share for name, share in shares.items()}

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the method's term, the mean over pairs of domains."""
        weight = self.settings.weight * (ramp(clock.progress) if self.settings.ramp else 1.0)
        # Sums over pairs of samples lose the small differences that they are about in half precision.
        with torch.autocast(batch.source.labels.device.type, enabled=False):
            values = [self.term(model, pair, clock) for pair in self._pairs(model, batch, encoded)]
            if not values:
                return []
            return [LossTerm(f"{self.name}/{self.term_name}", self.role, mean_of(values), weight)]

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the method's term for one pair of domains, a scalar."""
        raise NotImplementedError

    def _pairs(self, model: Model, batch: Batch, encoded: Forward) -> Iterator[Pair]:
        source, target = encoded[SOURCE], encoded[TARGET]
        x, zx = (to_float32(side["main"]) for side in (source.features, source.logits))
        y, zy = (to_float32(side["main"]) for side in (target.features, target.logits))
        labels = batch.source.labels
        ratio = source_weights(model, labels, self.part_name("prior")).to(x.dtype)
        groups = [slice(None)] if self.of_target else self.rows(batch.source)
        for rows in groups if len(x) and len(y) else []:
            # A class that the target is estimated not to have keeps 0.1 of its weight, so the sum is never 0.
            weights = ratio[rows] / ratio[rows].sum()
            yield Pair(x[rows], y, zx[rows], zy, labels[rows], weights, batch.target.index)
