"""Class prototypes as classifiers and as a domain discriminator (POCAN, ACCV 2022, sections 3.1, 3.4 and 3.5)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

ClassWeightRule: TypeAlias = Literal["one_minus_sq", "none"] | float


def prototype_ce(
    z: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of softmax(z . prototypes) with the labels (POCAN Eqs 2, 3, 8).

    Args:
        z: f[B,D]. prototypes: f[K,D].
        labels: int64[B] in 0..K-1; any number where the mask is false.
        weights: f[K] of the classes; None = 1.
        mask: bool[B] of the samples that take part; None = all.

    Returns:
        Scalar, the sum over those that take part divided by their number (not by their weights' sum);
        0, still connected, where there is none.
    """
    taking = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.to(torch.bool)
    # cross_entropy looks up every label, also those that are masked out below.
    known = torch.where(taking, labels, torch.zeros_like(labels))
    values = F.cross_entropy(z @ prototypes.mT, known, reduction="none")
    if weights is not None:
        values = values * weights.to(values.dtype)[known]
    # `where`, not a product: a masked value may be infinite, and 0 * inf is NaN.
    return torch.where(taking, values, torch.zeros_like(values)).sum() / taking.sum().clamp_min(1)


def prototype_domain_scores(z: Tensor, source_protos: Tensor, target_protos: Tensor) -> tuple[Tensor, Tensor]:
    """Log probability that samples belong to either domain, by both prototype sets in one softmax (POCAN section 3.4).

    Args:
        z: f[B,D]. source_protos: f[K,D]. target_protos: f[L,D].

    Returns:
        log alpha_s f[B] and log alpha_t f[B], exact where alpha itself would be 0.
    """
    source, target = (torch.logsumexp(z @ protos.mT, -1) for protos in (source_protos, target_protos))
    # log alpha_s = log(sum_k e^{z.p_k} / sum over both sets), in logarithms throughout.
    both = torch.logaddexp(source, target)
    return source - both, target - both


def class_weights(counts: Tensor, rule: ClassWeightRule) -> Tensor:
    """Weights of classes by their shares q_c = n_c / sum n (POCAN Eq 13).

    Args:
        counts: int or f[K], >= 0.
        rule: "one_minus_sq" = 1 - q^2 (the paper); a number e = (1 - q)^e (the released code); "none" = 1.

    Returns:
        f[K] in [0, 1], float32 for integer counts; 1 for a class without samples.
    """
    counts = counts if counts.is_floating_point() else counts.to(torch.float32)
    share = counts / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
    if rule == "none":
        return torch.ones_like(share)
    if isinstance(rule, str):
        return 1 - share.square()
    return (1 - share).pow(rule)
