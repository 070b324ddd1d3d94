"""The table of scores: what they need, what packages add, ranks and the aggregate."""

from __future__ import annotations

import numpy as np
import pytest

from fercore.errors import UserInputError
from fercore.evaluation.selection import VALIDATORS, Evidence, aggregate, best, needs, needs_source, ranks, score_pool
from tests.evaluation.selection.test_scores import evidence


def test_a_score_says_by_its_parameters_what_it_needs():
    assert needs("entropy") == ("target_probs",)
    assert needs("ensemble") == ("target_probs",)
    assert needs("dev") == ("train_features", "source_features", "source_probs", "source_labels", "target_features")
    assert needs_source("agreement_on_the_line")
    assert not needs_source("prior_distance")
    assert np.isnan(score_pool("snd", [Evidence(np.eye(3))])) == [False]
    assert np.isnan(score_pool("class_ami", [Evidence(np.eye(3)), evidence()])).tolist() == [True, False]


def test_no_score_is_handed_a_label_of_the_target():
    assert not {each for name in VALIDATORS for each in needs(name)} & {"target_labels", "target_truth", "test_labels"}


def test_what_a_package_adds_is_asked_by_its_parameters(monkeypatch):
    monkeypatch.setitem(
        VALIDATORS.builtin, "own", lambda target_probs, source_prior: target_probs[0, 0] + source_prior[0]
    )
    assert score_pool("own", [evidence()])[0] == pytest.approx(evidence().target_probs[0, 0] + 0.2)
    monkeypatch.setitem(VALIDATORS.builtin, "wrong", lambda target_label: 0.0)
    with pytest.raises(UserInputError, match="asks for 'target_label'"):
        needs("wrong")
    with pytest.raises(UserInputError, match=r"unknown score 'entropie'.*entropy"):
        score_pool("entropie", [evidence()])


def test_ranks_put_nan_last_and_share_what_is_equal():
    assert ranks(np.array([0.3, np.nan, 0.5, 0.3, np.nan])).tolist() == [2.5, 4.5, 1, 2.5, 4.5]
    assert best(np.array([np.nan, 0.2, 0.2])) == 1
    assert best(np.array([np.nan, np.nan])) == 0


def test_the_aggregate_is_the_mean_rank_of_the_scores_that_say_anything():
    scores = {
        "information_maximisation": np.array([3.0, 2.0, 1.0]),
        "ensemble": np.array([1.0, 3.0, 2.0]),
        "class_ami": np.full(3, np.nan),
        "entropy": np.array([0.0, 0.0, 9.0]),  # no part of it
    }
    assert aggregate(scores).tolist() == [-2, -1.5, -2.5]
