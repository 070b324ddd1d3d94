"""The semantic and the instance level: mixtures of experts on features and on predictions (LEAF Eqs 2-5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fercore.losses import UnitLength, official_positive_set, positive_set, to_float32
from fercore.models import ExpertMixture
from fercore_leaf.settings import CategorySettings, LevelSettings


def build_mixture(dim: int, settings: LevelSettings) -> ExpertMixture:
    """Build one level's mixture on vectors of width `dim`."""
    gate = settings.gate
    return ExpertMixture(
        dim,
        settings.n_experts,
        gate.k,
        settings.expert.kind,
        gate=gate.kind,
        shared=settings.expert.shared,
        combine=settings.combine,
        balance=gate.balance > 0,
        as_identity=settings.expert.start == "identity",
    )


def semantic_level(dim: int, settings: LevelSettings, *, mixture: bool = True) -> nn.Sequential:
    """Build what stands between pooled features f[B,dim] and the classifier: dropout, mixture, scaling to length 1."""
    level = nn.Sequential()
    if settings.dropout:
        level.append(nn.Dropout(settings.dropout))
    if mixture:
        level.append(build_mixture(dim, settings))
    if settings.feat_norm:
        level.append(UnitLength())
    return level


def take_imbalance(modules: Iterable[nn.Module]) -> Tensor | None:
    """Return the mean imbalance over the mixtures inside some modules since the last call; None without any."""
    mixtures = (m for module in modules for m in module.modules() if isinstance(m, ExpertMixture))
    values = [value for mixture in mixtures if (value := mixture.take_imbalance()) is not None]
    return torch.stack(values).mean() if values else None


def candidates(probs: Tensor, settings: CategorySettings) -> Tensor:
    """Return bool[B,K]: the candidate classes of probabilities f[B,K] (Eqs 6-8, or the released code's rule)."""
    rule = positive_set if settings.candidates == "reach" else official_positive_set
    return rule(probs, settings.threshold)


def split_views(weak: Sequence[Tensor], strong: Tensor, settings: CategorySettings) -> Mapping[str, list[Tensor]]:
    """Return the logits of the views that choose candidates ("teacher") and of those that are scored ("student")."""
    sides = [list(weak), [strong]]
    teacher, student = sides if settings.partition_from == "weak" else reversed(sides)
    return {"teacher": teacher, "student": student}


def mean_probs(logits: Sequence[Tensor]) -> Tensor:
    """Return the probabilities f[B,K] of the views' mean logits, detached, at least float32."""
    # Logits are averaged, not probabilities: a view that is sure then outweighs one that is not.
    return torch.stack([to_float32(z.detach()) for z in logits]).mean(0).softmax(-1)


def scores(logits: Tensor, settings: CategorySettings) -> Tensor:
    """Return what is held apart: logits f[B,K] or their probabilities."""
    return to_float32(logits).softmax(-1) if settings.score == "prob" else logits
