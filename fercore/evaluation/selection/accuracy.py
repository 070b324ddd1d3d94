"""What accuracy a model may have on the target, and what it has on held-out source; higher is better.

Estimators learn a temperature and a threshold on held-out source. All read overconfidence on the target as accuracy,
and all fail where images of a class look alike but are named otherwise (other annotators).
"""

from __future__ import annotations

import numpy as np

from fercore.evaluation.selection.arrays import softmax


def source_accuracy(source_probs: np.ndarray, source_labels: np.ndarray) -> float:
    """Return the accuracy on held-out source, which never sees the target."""
    return float((source_probs.argmax(axis=1) == source_labels).mean())


def source_balanced_accuracy(source_probs: np.ndarray, source_labels: np.ndarray) -> float:
    """Return the mean recall of the classes in held-out source."""
    right = source_probs.argmax(axis=1) == source_labels
    return float(np.mean([right[source_labels == k].mean() for k in np.unique(source_labels)]))


def average_confidence(target_logits: np.ndarray, source_logits: np.ndarray, source_labels: np.ndarray) -> float:
    """Return the mean probability of the likeliest class, at the temperature that fits held-out source."""
    heat = temperature(source_logits, source_labels)
    return float(softmax(target_logits / heat).max(axis=1).mean())


def difference_of_confidences(target_logits: np.ndarray, source_logits: np.ndarray, source_labels: np.ndarray) -> float:
    """Return source accuracy plus the gain in mean confidence, in [0,1] (Guillory et al., ICCV 2021)."""
    heat = temperature(source_logits, source_labels)
    gain = softmax(target_logits / heat).max(axis=1).mean() - softmax(source_logits / heat).max(axis=1).mean()
    return float(np.clip(source_accuracy(source_logits, source_labels) + gain, 0, 1))


def atc(target_logits: np.ndarray, source_logits: np.ndarray, source_labels: np.ndarray) -> float:
    """Return the share of target images above the confidence that as many of the source have as are right.

    Average thresholded confidence (Garg et al., ICLR 2022), confidence = maximal probability.
    """
    heat = temperature(source_logits, source_labels)
    sure = np.sort(softmax(source_logits / heat).max(axis=1))
    wrong = round((1 - source_accuracy(source_logits, source_labels)) * len(sure))
    threshold = sure[wrong] if wrong < len(sure) else np.inf
    return float((softmax(target_logits / heat).max(axis=1) >= threshold).mean())


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T in [0.05, 20] that minimises the negative log-likelihood of softmax(z / T) (Guo et al., 2017)."""
    from scipy.optimize import minimize_scalar

    z = logits.astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    own = z[np.arange(len(z)), labels]

    def loss(log_heat: float) -> float:
        scaled = z / np.exp(log_heat)
        return float((np.log(np.exp(scaled).sum(axis=1)) - own / np.exp(log_heat)).mean())

    minimum = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(minimum.x))
