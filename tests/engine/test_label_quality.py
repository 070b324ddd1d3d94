"""Pseudo labels are scored by the evaluator, records of them grow with the data, and no plugin sees the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from fercore.evaluation.evaluate import score, score_labels
from fercore.models import PseudoLabelRecord, SizedByData
from fercore.records.outputs import Outputs

CLASSES = ("anger", "fear", "neutral")


def test_scores_by_hand():
    probs = np.array([[0.6, 0.4, 0], [0.2, 0.8, 0], [0, 0, 1], [0.5, 0.5, 0], [1, 0, 0]])
    found = score_labels(probs, np.array([1, 1, 0.5, 0, 1]), np.array([0, 0, 2, 1, -1]), CLASSES)
    assert (found.n, found.labelled, found.known) == (5, 4, 3)
    assert found.coverage == 0.8
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.balanced_accuracy == pytest.approx((0.5 + 1) / 2)
    assert found.probability == pytest.approx((0.6 + 0.2 + 1) / 3)
    assert {name: one.model_dump() for name, one in found.per_class.items()} == {
        "anger": {"coverage": 1.0, "accuracy": 0.5},
        "fear": {"coverage": 0.0, "accuracy": None},
        "neutral": {"coverage": 1.0, "accuracy": 1.0},
    }
    assert found.uses_target_labels


@pytest.mark.parametrize(("weight", "truth"), [([0, 0], [0, 1]), ([1, 1], [-1, -1])])
def test_nothing_to_score_is_none(weight, truth):
    found = score_labels(np.eye(3)[:2], np.array(weight), np.array(truth), CLASSES)
    assert found.accuracy is found.balanced_accuracy is found.probability is None


def test_f1_is_that_of_scikit_learn_to_the_bit():
    random = np.random.default_rng(0)
    truth, guess = (
        random.integers(0, 3, 500),
        random.integers(0, 4, 500),
    )  # nobody is neutral, and some are taken for it
    truth[:9] = -1
    classes = ("anger", "fear", "happiness", "neutral")
    found = score(Outputs(np.eye(4)[guess], {}, {}, truth), classes)
    expected = f1_score(truth[9:], guess[9:], labels=range(4), average=None, zero_division=0)
    assert found.per_class_f1 == {**dict(zip(classes, expected.tolist(), strict=True)), "neutral": None}
    assert found.macro_f1 == expected[:3].mean()


def test_a_record_takes_the_datas_size_when_it_is_loaded():
    one, other = (nn.ModuleDict({"p/labels": PseudoLabelRecord(3)}) for _ in range(2))
    one["p/labels"].write(torch.eye(3)[[0, 2, 1, 1]], torch.tensor([True, False, True, True]))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other["p/labels"].probs, torch.eye(3)[[0, 2, 1, 1]])
    assert other["p/labels"].weight.tolist() == [1, 0, 1, 1]
    assert other["p/labels"].weight.dtype == torch.float32


def test_a_record_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        PseudoLabelRecord(3).write(torch.eye(3), torch.ones(2))


def test_buffers_keep_their_type_and_a_missing_one_is_told():
    part = SizedByData({"rows": torch.zeros(0, dtype=torch.int64)})
    part.put("rows", torch.tensor([3.0, 1.0]))
    assert part.get_buffer("rows").tolist() == [3, 1]
    with pytest.raises(RuntimeError, match="Missing key"):
        part.load_state_dict({})
