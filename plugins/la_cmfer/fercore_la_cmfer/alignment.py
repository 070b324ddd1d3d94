"""Inter-domain alignment of a step (Eqs 1-9): every source and every branch in one pass over the distances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses import (
    confident,
    hardness_weights,
    logit_square,
    normalise_weights,
    pair_contrast,
    rest_mmd,
    to_float32,
)
from fercore.ops import alignment_mmd, weighted_mmd
from fercore.plugin import DomainBatch, Encoded
from fercore_la_cmfer.modules import BranchGroup, branch_groups
from fercore_la_cmfer.settings import LaCmferSettings


@dataclass(frozen=True)
class Rows:
    """One side of several groups: features f[G,n,D], logits f[G,n,K], labels int64[G,n]."""

    features: Tensor
    logits: Tensor
    labels: Tensor


class Aligned(NamedTuple):
    """Scalars: sums over groups of the sample level and of the cluster level, and what was counted on the way.

    Attributes:
        sample, cluster: differentiable. groups: branches x sources. sources: domains in the batch.
        empty: int64, groups in which one side has no weight. unpaired: int64, groups without a cluster level.
    """

    sample: Tensor
    cluster: Tensor
    groups: int
    sources: int
    empty: Tensor
    unpaired: Tensor


def align_domains(source: Encoded, target: Encoded, batch: DomainBatch, settings: LaCmferSettings) -> Aligned:
    """Compute L_inter's two parts (Eq 9 before lambda): sample level and cluster level, over all groups.

    Args:
        source, target: the encoded sides.
        batch: the source samples, for labels and domains.
        settings: of the plugin.
    """
    parts = []
    sources = 0
    for left, right, count in _groups(source, target, batch, settings):
        parts.append(_align_groups(left, right, settings))
        sources += count
    sample, cluster, empty, unpaired = (torch.stack(column).sum(0) for column in zip(*parts, strict=True))
    groups = sources * max(len(group.branches) for group in branch_groups(source.features))
    return Aligned(sample, cluster, groups, sources, empty, unpaired)


def _align_groups(left: Rows, right: Rows, settings: LaCmferSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = weigh(left, right, settings)
    kernel: dict[str, Any] = {"num_kernels": settings.align.num_kernels, "multiplier": settings.align.multiplier}
    # The formula leaves a self-similarity where one side has no reliable sample: such a group counts as 0.
    alive = (weights.source.sum(-1) > 0) & _each((weights.target.sum(-1) > 0), len(left.features))
    if not settings.cid.enabled:
        value = weighted_mmd(left.features, right.features, weights.source, weights.target, **kernel)
        none = value.new_zeros(())
        return (value * alive).sum(), none, (~alive).sum(), none.long()
    num_classes = left.logits.shape[-1]
    levels = alignment_mmd(
        left.features,
        right.features,
        weights.source,
        weights.target,
        weights.source_labels,
        weights.target_labels,
        num_classes,
        cx=weights.source_class,
        cy=weights.target_class,
        **kernel,
    )
    value, valid = levels.value, levels.valid
    contrast, paired = pair_contrast(value, valid)
    if settings.cid.pairs == "one_vs_rest":
        contrast, paired = _one_vs_rest(left, right, weights, value, valid, kernel)
    return (levels.sample * alive).sum(), contrast.sum(), (~alive).sum(), (~paired).sum()


def _one_vs_rest(
    left: Rows, right: Rows, weights: Weights, value: Tensor, valid: Tensor, kernel: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    groups, num_classes = value.shape[:2]
    cy = weights.target_class
    rest, rest_valid = rest_mmd(
        left.features,
        _each(right.features, groups),
        weights.source_labels,
        _each(weights.target_labels, groups),
        num_classes,
        wx=weights.source_class,
        wy=None if cy is None else _each(cy, groups),
        **kernel,
    )
    # The diagonal compares a class with itself on the other side; `rest` compares it with all others at once.
    near_valid = valid.diagonal(dim1=-2, dim2=-1)
    near, far = (
        (v * ok).sum(-1) / ok.sum(-1).clamp_min(1)
        for v, ok in ((value.diagonal(dim1=-2, dim2=-1), near_valid), (rest, rest_valid))
    )
    paired = near_valid.any(-1) & rest_valid.any(-1)
    return (near - far) * paired, paired


class Weights(NamedTuple):
    """Constants of an alignment: sample weights f[G,n] / f[Gy,m], and class-level labels and weights (None = uniform).

    The target's may be given once for a branch (Gy) or once for a group (G).
    """

    source: Tensor
    target: Tensor
    source_labels: Tensor
    target_labels: Tensor
    source_class: Tensor | None
    target_class: Tensor | None


def weigh(left: Rows, right: Rows, settings: LaCmferSettings) -> Weights:
    """Choose weights and class labels by the settings of hardness, reliability and clusters.

    Args:
        left: source groups. right: target groups, fewer where sources share them; labels are the predicted classes.
        settings: of the plugin.
    """
    masks = [confident(rows.logits.softmax(-1), settings.eps) for rows in (left, right)]
    x_labels, y_labels = left.labels, right.labels
    if settings.cid.weighted:
        # Without hardness: every reliable sample counts alike inside its class.
        classes: list[Tensor | None] = [mask.to(left.logits.dtype) for mask in masks]
    else:
        x_labels, y_labels = (
            # Class -1 takes no part in the cluster level; the sample level goes by weights.
            rows.labels.masked_fill(~mask, -1)
            for rows, mask in zip((left, right), masks, strict=True)
        )
        classes = [None, None]
    if not settings.hardness.enabled:
        uniform = [torch.full_like(rows.logits[..., 0], 1.0 / rows.logits.shape[1]) for rows in (left, right)]
        return Weights(uniform[0], uniform[1], x_labels, y_labels, *classes)
    if settings.hardness.require_match:
        masks = _matched(left, right, masks)
        y_logits = _each(right.logits, len(left.logits))
    else:
        y_logits = right.logits
    hard = [_hardness(left.logits, left.labels, masks[0], settings), _hardness(y_logits, None, masks[1], settings)]
    if settings.cid.weighted:
        classes = [hard[0], hard[1]]
    # After the class weights are taken: those are normalised inside each class, and a common factor would be lost.
    if settings.hardness.inv_batch:
        hard = [h / h.shape[-1] for h in hard]
    return Weights(hard[0], hard[1], x_labels, y_labels, *classes)


def _hardness(logits: Tensor, labels: Tensor | None, mask: Tensor, settings: LaCmferSettings) -> Tensor:
    if settings.hardness.measure == "logit_ms":
        return normalise_weights(logit_square(logits, labels), mask)
    return hardness_weights(logits.softmax(-1), labels, mask)


def _present(labels: Tensor, num_classes: int) -> Tensor:
    """Return bool[G,K]: which classes the labels [G,n] hold."""
    return (labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)).any(1)


def _matched(left: Rows, right: Rows, masks: Sequence[Tensor]) -> list[Tensor]:
    groups, num_classes = len(left.labels), left.logits.shape[-1]
    y_labels = _each(right.labels, groups)
    # Unknown labels are clamped for the look-up and taken out below.
    in_target = _present(y_labels, num_classes).gather(1, left.labels.clamp_min(0))
    in_source = _present(left.labels, num_classes).gather(1, y_labels)
    return [masks[0] & in_target & (left.labels >= 0), _each(masks[1], groups) & in_source]


def _each(tensor: Tensor, groups: int) -> Tensor:
    """Repeat what target groups share, so that every group has its own: [Gy,...] -> [G,...]."""
    return tensor if len(tensor) == groups else tensor.repeat(groups // len(tensor), *[1] * (tensor.dim() - 1))


def _groups(
    source: Encoded, target: Encoded, batch: DomainBatch, settings: LaCmferSettings
) -> Iterator[tuple[Rows, Rows, int]]:
    """Yield groups of equal size; sources with equally many samples in the batch, the usual case, come together."""
    groups = branch_groups(source.features)
    width = max(f.shape[1] for f in source.features.values())
    mixed = settings.source_batch == "mixed" and groups[0].source is None
    for domains, rows in _by_domain(batch, mixed=mixed):
        pairs = _pairs(groups, domains)
        shared = groups[0].source is None
        # With branches for all sources the target is encoded once a branch, and group g meets row g % branches.
        heard = list(groups[0].branches) if shared else [branch for _, branch in pairs]
        left = Rows(
            torch.stack([_wide(source.features[b][rows[s]], width) for s, b in pairs]),
            torch.stack([to_float32(source.logits[b][rows[s]]) for s, b in pairs]),
            torch.stack([batch.labels[rows[s]] for s, _ in pairs]),
        )
        logits = torch.stack([to_float32(target.logits[b]) for b in heard])
        features = torch.stack([_wide(target.features[b], width) for b in heard])
        yield left, Rows(features, logits, logits.argmax(-1)), len(domains)


def _pairs(groups: Sequence[BranchGroup], domains: Sequence[int]) -> list[tuple[int, str]]:
    if groups[0].source is None:
        return list(product(range(len(domains)), groups[0].branches))
    by_source = {group.source: group.branches for group in groups}
    return [(s, branch) for s, domain in enumerate(domains) for branch in by_source[domain]]


def _by_domain(batch: DomainBatch, *, mixed: bool) -> list[tuple[list[int], Tensor]]:
    """Return (domain numbers, positions int64[S,n]) for each size n of a domain's share of the batch."""
    if mixed:
        return [([0], torch.arange(len(batch), device=batch.domain.device)[None])]
    order = torch.argsort(batch.domain, stable=True)
    counts = list(batch.domain_counts())
    by_size: dict[int, list[tuple[int, Tensor]]] = {}
    for number, (count, rows) in enumerate(zip(counts, torch.split(order, counts), strict=True)):
        if count:
            by_size.setdefault(count, []).append((number, rows))
    return [([n for n, _ in members], torch.stack([rows for _, rows in members])) for members in by_size.values()]


def _wide(features: Tensor, width: int) -> Tensor:
    """Pad features with zeros, which changes no distance, so that branches of other widths share one call."""
    return F.pad(to_float32(features), (0, width - features.shape[1]))
