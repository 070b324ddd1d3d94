"""What is said of predictions where nothing has a label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from fercore.evaluation.evaluate import without_labels


def test_shares_entropy_and_confidence_need_no_label():
    probs = np.random.default_rng(0).dirichlet(np.full(3, 0.5), 40).astype(np.float32)
    found = without_labels(probs, ("a", "b", "c"))
    assert found.n == 40
    assert list(found.class_shares.values()) == [np.mean(probs.argmax(axis=1) == k) for k in range(3)]
    assert found.entropy == pytest.approx(entropy(probs, axis=1, base=3).mean(), rel=1e-5)
    assert found.confidence == pytest.approx(probs.max(axis=1).mean())


def test_a_model_that_is_sure_or_knows_nothing_and_a_target_without_images():
    assert without_labels(np.eye(2), ("a", "b")).entropy == pytest.approx(0, abs=1e-12)
    assert without_labels(np.full((3, 2), 0.5), ("a", "b")).entropy == pytest.approx(1)
    assert without_labels(np.zeros((0, 2)), ("a", "b")).confidence is None
