"""Scores of a model by how its classes lie among the target's features; higher is better."""

from __future__ import annotations

import warnings

import numpy as np

from fercore.evaluation.selection.arrays import canonical_order, shares_of, unit_rows
from fercore.evaluation.selection.certainty import beyond_chance

STARTS, NEIGHBOURS = 3, 5


def class_ami(target_probs: np.ndarray, target_features: np.ndarray) -> float:
    """Return the adjusted mutual information of predictions and K clusters of the features (Musgrave et al., 2022).

    0 for a single predicted class. Fooled where the features have fewer clusters than classes.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    labels = target_probs.argmax(axis=1)
    if len(np.unique(labels)) < 2:
        return 0.0
    return float(adjusted_mutual_info_score(labels, _clusters(target_features, target_probs.shape[1])))


def class_silhouette(target_probs: np.ndarray, target_features: np.ndarray) -> float:
    """Return the silhouette of K clusters of features at length 1; NaN for one cluster, or one a sample.

    Fooled by clusters that are compact and wrong: the predictions have no part in it but their number of classes.
    """
    from sklearn.metrics import silhouette_score

    unit = unit_rows(target_features)
    clusters = _clusters(unit, target_probs.shape[1])
    return float(silhouette_score(unit, clusters)) if 1 < len(np.unique(clusters)) < len(clusters) else float("nan")


def neighbour_agreement(target_probs: np.ndarray, target_features: np.ndarray) -> float:
    """Return how often the 5 nearest neighbours by cosine have an image's class, beyond chance; 0 for one class."""
    return _agreement(target_probs, unit_rows(target_features))


def au_agreement(target_probs: np.ndarray, target_au: np.ndarray) -> float:
    """Return how often the 5 images with the nearest action units f[N,U] have an image's class, beyond chance."""
    return _agreement(target_probs, target_au.astype(np.float64))


def _agreement(probs: np.ndarray, points: np.ndarray) -> float:
    from sklearn.neighbors import NearestNeighbors

    k = min(NEIGHBOURS, len(probs) - 1)
    if k < 1:
        return float("nan")
    labels = probs.argmax(axis=1)
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    shares = shares_of(labels, probs.shape[1])
    return beyond_chance(float((labels[near] == labels[:, None]).mean()), float(shares @ shares))


def _clusters(features: np.ndarray, count: int) -> np.ndarray:
    """Return int[N], the k-means cluster of each row; the same for the same rows in any order."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    order = canonical_order(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer points than clusters: so it is
        means = KMeans(min(count, len(features)), n_init=STARTS, random_state=0)
        labels = means.fit_predict(features[order].astype(np.float64))
    clusters = np.empty(len(features), dtype=np.int64)
    clusters[order] = labels
    return clusters
