"""Numbers that a report adds to those of a run: calibration, distances, embeddings. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fercore.evaluation.metrics import Sums, scores_of, sums_of
from fercore.ops import weighted_mmd


@dataclass(frozen=True)
class Reliability:
    """How often a network is right where it is so sure; bins of equal width that hold images.

    Attributes:
        confidence, accuracy: mean of each bin, float[B]. n: images of each. ece: expected calibration error.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    n: np.ndarray
    ece: float


def reliability(sums: Sums) -> Reliability:
    """Return the reliability diagram (Guo et al. 2017, figure 1) of the samples that sums are of."""
    whole = sums.weighted(np.ones(len(sums.confusion)))
    n, right, sure = whole.calibration[whole.calibration[:, 0] > 0].T
    return Reliability(sure / n, right / n, n.astype(int), float(scores_of(whole)["ece"]))


def one_by_one(confusion: np.ndarray) -> Sums:
    """Return the sums of the images that a confusion matrix int[K,K] counts, each a unit; nothing on calibration."""
    truth, guess = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices(confusion.shape))
    return sums_of(np.eye(len(confusion))[guess], truth, np.arange(len(truth)))


def embed(features: np.ndarray) -> np.ndarray:
    """Return t-SNE of features float[N,D] as float[N,2] (van der Maaten & Hinton 2008); the same on every call."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    # By PCA first, as the paper does: neighbours stay, and distances of 50 numbers cost less than those of 1,024.
    # Its start is the first two components, so that clusters of like features stand where they did in another report.
    n, d = features.shape
    reduced = PCA(min(50, d, n), random_state=0).fit_transform(features)
    # scikit-learn refuses a perplexity of as many neighbours as there are points.
    perplexity = min(30.0, (n - 1) / 3)
    embedded: np.ndarray = TSNE(2, init="pca", perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(reduced)
    return embedded


def mmd(source: np.ndarray, target: np.ndarray) -> float:
    """Return the kernel MMD of two sets of features, L2-normalised, uniform weights: the root of the squared one."""
    x, y = (torch.from_numpy(_unit(rows).astype(np.float32)) for rows in (source, target))
    value = weighted_mmd(x, y, *(torch.full((len(rows),), 1.0 / len(rows)) for rows in (x, y)))
    return float(value.clamp_min(0).sqrt())


def a_distance(source: np.ndarray, target: np.ndarray) -> float:
    """Return the proxy A-distance 2 (1 - 2 error) of a linear classifier of domains (Ben-David et al. 2010), in [0, 2].

    The error is of five folds, each domain weighing half; a classifier worse than chance is one at chance.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate([source, target])
    domain = np.repeat([0, 1], [len(source), len(target)])
    # Each fold needs an image of both domains.
    folds = min(5, len(source), len(target))
    if folds < 2:
        return float("nan")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    # Balanced: with nine times as many source images, guessing would look like telling them apart.
    right = cross_val_score(classifier, rows, domain, cv=folds, scoring="balanced_accuracy").mean()
    return float(max(0.0, 2 * (2 * right - 1)))


def _unit(features: np.ndarray) -> np.ndarray:
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    unit: np.ndarray = features / lengths
    return unit
