"""The loss terms of a step: Eqs 2-12 on both views of both sides, for one player or the other (Eqs 15, 16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fercore.losses import class_weights, info_nce, prototype_ce, prototype_domain_scores, supcon, to_float32
from fercore.losses.prototypes import ClassWeightRule
from fercore.plugin import LossTerm, PseudoLabels, Role
from fercore_pocan.settings import PocanSettings


@dataclass(frozen=True)
class StepInputs:
    """What the terms of one step are made from.

    Attributes:
        name: of the plugin. settings: its settings.
        source: f[B,V,m] embeddings of V views. target: f[Bt,V,m], None where the stage has none.
        labels: int64[B]. pseudo: of the target samples, None before adaptation.
        heads: "source", "target" -> prototypes f[K,m]. counts: int64[K] of both domains.
        ramp: lambda_t. classifying: the source prototypes are learnt before adaptation.
    """

    name: str
    settings: PocanSettings
    source: Tensor
    target: Tensor | None
    labels: Tensor
    pseudo: PseudoLabels | None
    heads: Mapping[str, nn.Module]
    counts: tuple[Tensor, Tensor]
    ramp: float
    classifying: bool = False

    def contrast_source(self) -> LossTerm:
        """L_sup (Eq 4) on the source's views."""
        return self._term("source_contrast", Role.CONTRASTIVE, supcon(self.source, self.labels, self.settings.tau_sup))

    def source_prototypes(self) -> LossTerm:
        """L_sp (Eq 2)."""
        return self._term("source_prototypes", Role.SUPERVISED, self._source_ce("source"))

    def in_domain(self) -> list[LossTerm]:
        """L_in = L_target + L_source (Eqs 5-7), for the encoder."""
        if not self.settings.use_in:
            return []
        first, second = self._target_views().unbind(1)
        scale = 2.0 if self.settings.nce.reduction == "sum_views" else 1.0
        contrast = info_nce(first, second, self.settings.tau)
        return [
            self.contrast_source(),
            self._term("source_in", Role.SUPERVISED, self._source_ce("source")),
            self._term("target_contrast", Role.CONTRASTIVE, contrast, scale),
            self._term("target_in", Role.CONSISTENCY, self._target_ce("target"), self.ramp),
        ]

    def alignment(self) -> list[LossTerm]:
        """L_cross (Eqs 8-9) and L_st (Eq 11), for the encoder."""
        terms = []
        if self.settings.use_cross:
            terms += [
                self._term("cross_source", Role.ALIGNMENT, self._source_ce("target")),
                self._term("cross_target", Role.ALIGNMENT, self._target_ce("source")),
            ]
        if self.settings.use_adv and self.settings.adv.on_encoder:
            # Eq 11: the encoder makes each side look like the other.
            (_, s_as_t), (t_as_s, _) = self._scores()
            terms.append(self._term("confusion", Role.ADVERSARIAL, -t_as_s.mean() - s_as_t.mean()))
        return terms

    def classification(self) -> list[LossTerm]:
        """L_sp and L_tp (Eqs 2-3), for the prototypes."""
        weight = self.ramp if self.settings.proto.lambda_on_tp else 1.0
        target = self._term("target_prototypes", Role.CONSISTENCY, self._target_ce("target"), weight)
        return [self.source_prototypes(), target]

    def discrimination(self) -> list[LossTerm]:
        """L_dis (Eq 10), for the prototypes."""
        if not self.settings.use_adv:
            return []
        # Eq 10: the prototypes tell the sides apart.
        (s_as_s, _), (_, t_as_t) = self._scores()
        return [self._term("discrimination", Role.ADVERSARIAL, -s_as_s.mean() - t_as_t.mean())]

    def _term(self, name: str, role: Role, value: Tensor, weight: float = 1.0) -> LossTerm:
        return LossTerm(f"{self.name}/{name}", role, value, weight)

    def _target_views(self) -> Tensor:
        assert self.target is not None
        return self.target

    def _rows(self, head: str) -> Tensor:
        """Prototypes f[K,m], or f[K,m+1] with their bias as one more column."""
        weight, bias = to_float32(self.heads[head].weight), self.heads[head].bias  # type: ignore[arg-type]
        return weight if bias is None else torch.cat([weight, to_float32(bias)[:, None]], 1)  # type: ignore[arg-type]

    def _flat(self, views: Tensor) -> Tensor:
        """Every view as a row, with a 1 to meet the bias where there is one."""
        rows = views.flatten(0, 1)
        return torch.cat([rows, torch.ones_like(rows[:, :1])], 1) if self.settings.proto.bias else rows

    def _scores(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Log alpha_s and log alpha_t of the source's views, and of the target's."""
        rows = self._rows("source"), self._rows("target")
        source = prototype_domain_scores(self._flat(self.source), *rows)
        return source, prototype_domain_scores(self._flat(self._target_views()), *rows)

    def _source_ce(self, head: str) -> Tensor:
        weights = class_weights(self.counts[0], self._rule("clf" if self.classifying else "src"))
        # Views of a sample lie next to each other in `_flat`.
        labels = self.labels.repeat_interleave(self.source.shape[1])
        return self._ce(self.source, head, labels, weights, torch.ones_like(labels, dtype=torch.bool))

    def _target_ce(self, head: str) -> Tensor:
        assert self.pseudo is not None
        views = self._target_views()
        weights = class_weights(self.counts[1], self._rule("tgt"))
        labels, trusted = (x.repeat_interleave(views.shape[1]) for x in (self.pseudo.labels, self.pseudo.weight > 0))
        return self._ce(views, head, labels, weights, trusted)

    def _ce(self, views: Tensor, head: str, labels: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
        value = prototype_ce(self._flat(views), self._rows(head), labels, weights, mask)
        if self.settings.weight_norm == "batch":
            return value
        weight = (weights[labels] * mask).sum()
        # The mean over the number becomes one over the weights: times the former, divided by the latter.
        return value * mask.sum() / torch.where(weight > 0, weight, torch.ones_like(weight))

    def _rule(self, part: str) -> ClassWeightRule:
        rule = self.settings.class_weight
        if isinstance(rule, str):
            return rule
        return float(getattr(rule, part))
