"""The class shares of new images, by a model that carries what it says of held-out source: label shift."""

from __future__ import annotations

import numpy as np

from fercore.data.noise import permutation
from fercore.evaluation.label_shift import SharesByEstimator, named_estimates
from fercore.prediction.predictor import Predictor

LEAST, MOST = 20, 2000
"""Faces below which nothing is estimated, and by how many at most: the bootstrap goes through them a hundred times."""


def class_shares(predictor: Predictor, probs: np.ndarray) -> SharesByEstimator | None:
    """Return estimator -> class -> share and its interval of 95 %; None for a model without held-out source.

    Args:
        probs: f[N,K], what the model answers, calibrated as it is. The interval takes faces for independent, which
            those of a video are not.
    """
    if predictor.held_out is None or len(probs) < LEAST:
        return None
    probs = probs[permutation(len(probs), "class_shares")[:MOST]]
    if predictor.record.calibration is not None:
        probs = predictor.record.calibration.undone(probs)
    return named_estimates(predictor.classes, probs, *predictor.held_out, seed=predictor.record.provenance.seed)
