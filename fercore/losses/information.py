"""Information maximisation on unlabelled samples (SHOT, Liang et al., ICML 2020, Eqs 2-4)."""

from __future__ import annotations

import torch
from torch import Tensor


def confidence_entropy(log_probs: Tensor) -> Tensor:
    """Mean entropy of predictions; low where each is sure of itself (SHOT, L_ent).

    Args:
        log_probs: f[B,K], logarithms of probabilities.

    Returns:
        Scalar; 0, still connected to them, for no sample.
    """
    return -(log_probs.exp() * log_probs).sum() / max(1, len(log_probs))


def class_divergence(log_probs: Tensor, prior: Tensor | None = None) -> Tensor:
    """KL divergence of the mean prediction from class shares; low where all together are spread as the shares say.

    With equal shares it is log K - H(mean p): SHOT's L_div = -H(mean p) up to a constant. With others it does not push
    towards equal classes, which is wrong where the target's are not.

    Args:
        log_probs: f[B,K], logarithms of probabilities. prior: f[K] that sums to 1; None = equal shares.

    Returns:
        Scalar, at least 0 up to rounding.
    """
    # In logarithms, so that a class that no sample has keeps a finite gradient.
    mean = torch.logsumexp(log_probs, 0) - torch.log(log_probs.new_tensor(float(len(log_probs))))
    tiny = torch.finfo(log_probs.dtype).tiny
    shares = log_probs.new_full((log_probs.shape[1],), 1 / log_probs.shape[1]) if prior is None else prior
    return (mean.exp() * (mean - shares.to(mean.dtype).clamp_min(tiny).log())).sum()


def centroid_labels(features: Tensor, probs: Tensor, *, threshold: int = 0, rounds: int = 2) -> Tensor:
    """Label samples by the nearest class centroid in cosine distance (SHOT, Eqs 5-6).

    g = [f; 1] / |[f; 1]|. Centroids are first means of all g weighted by the class's probability, in later rounds
    means of the samples that the round before has given to the class. Classes that no more than `threshold` samples are
    predicted as take no part.

    Args:
        features: f[N,D]. probs: f[N,K]. threshold: see there. rounds: assignments, 1 or more; the paper has 2.

    Returns:
        int64[N].
    """
    ones = features.new_ones(len(features), 1)
    g = torch.cat([features, ones], 1)
    g = g / g.norm(dim=1, keepdim=True)
    classes = probs.shape[1]
    taking_part = torch.bincount(probs.argmax(1), minlength=classes) > threshold
    if not taking_part.any():
        return probs.argmax(1)
    membership = probs.to(g.dtype)
    for _ in range(rounds):
        total = membership.sum(0)
        centroids = membership.T @ g / total.clamp_min(1e-8)[:, None]
        length = centroids.norm(dim=1).clamp_min(torch.finfo(g.dtype).tiny)
        likeness = g @ (centroids / length[:, None]).T
        # A class that has lost all its samples has no centroid.
        likeness = likeness.masked_fill(~(taking_part & (total > 0)), -torch.inf)
        labels: Tensor = likeness.argmax(1)
        membership = torch.nn.functional.one_hot(labels, classes).to(g.dtype)
    return labels


def cluster_votes(clusters: Tensor, labels: Tensor, num_classes: int, *, smallest: int = 1) -> tuple[Tensor, Tensor]:
    """Give every sample the most frequent label of its cluster, and its share there (CluP, Conti et al., BMVC 2022).

    Args:
        clusters: int64[N]. labels: int64[N], of the model that is adapted. num_classes: K.
        smallest: samples of a cluster below which it has purity 0: a cluster of one is always pure.

    Returns:
        labels int64[N]; the least class of those that are equally frequent. Purity f32[N] in [0, 1].
    """
    number = int(clusters.max()) + 1 if len(clusters) else 0
    votes = torch.zeros(number, num_classes, device=labels.device)
    votes.index_put_((clusters, labels), torch.ones(len(labels), device=labels.device), accumulate=True)
    size = votes.sum(1)
    most, winner = votes.max(1)
    purity = torch.where(size >= smallest, most / size.clamp_min(1), torch.zeros_like(size))
    return winner[clusters], purity[clusters]


def purest(labels: Tensor, purity: Tensor, share: float) -> Tensor:
    """Return which samples are among the purest share of their class, at least one of each class (CluP).

    Args:
        labels: int64[N]. purity: f[N]; samples of purity 0 are never taken. share: in (0, 1].

    Returns:
        bool[N].
    """
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        order = members[purity[members].argsort(descending=True, stable=True)]
        kept[order[: max(1, int(share * len(members)))]] = True
    return kept & (purity > 0)
