"""Feature banks against enumeration, and every way in which they can be empty."""

from __future__ import annotations

import logging

import pytest
import torch
from fercore_pca.banks import DualBanks, choose

ROWS, CLASSES, DIM = 23, 4, 3


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(3)
    features = torch.nn.functional.normalize(torch.randn(ROWS, DIM, generator=generator))
    probs = (2 * torch.randn(ROWS, CLASSES, generator=generator)).softmax(-1)
    labels = torch.randint(-1, CLASSES, (ROWS,), generator=generator)
    return features, probs, labels


@pytest.mark.parametrize("rule", ["probability", "prediction"])
@pytest.mark.parametrize("n", [1, 5, 30])
def test_rows_and_centres_are_those_of_an_enumeration(paper, drawn, rule, n):
    features, probs, labels = drawn
    wanted = paper.bank(features.tolist(), probs.tolist(), labels.tolist(), n, rule)
    rows = choose(features, probs, labels, n, rule)
    assert {c: [i for i in row if i >= 0] for c, row in enumerate(rows.tolist())} == wanted
    banks = DualBanks(DIM, CLASSES, n, "text")
    banks.fill("source", features, probs, labels, rule)
    banks.fill("target", features, probs, torch.full_like(labels, -1), rule)
    texts = torch.nn.functional.normalize(torch.randn(CLASSES, DIM))
    absent = banks.settle(texts)
    for side, told in enumerate((labels, torch.full_like(labels, -1))):
        found = paper.bank(features.tolist(), probs.tolist(), told.tolist(), n, rule)
        for c in range(CLASSES):
            centre = torch.tensor(paper.centre(features.tolist(), found[c])) if found[c] else texts[c]
            torch.testing.assert_close(banks.centres[side, c], centre)
        absent -= sum(not row for row in found.values())
    assert absent == 0


def test_labelled_rows_must_be_predicted_rightly(drawn):
    features, probs, _ = drawn
    predicted = probs.argmax(-1)
    wrong = (predicted + 1) % CLASSES
    assert (choose(features, probs, wrong, 5, "prediction") == -1).all()
    assert torch.equal(
        choose(features, probs, predicted, 5, "prediction"),
        choose(features, probs, torch.full_like(predicted, -1), 5, "prediction"),
    )


def make(empty, rule="prediction", target=True):
    """Banks of three classes; no source image is predicted as class 2, no target image as class 0."""
    eye = torch.eye(3)
    banks = DualBanks(3, 3, 2, empty)
    probs = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    banks.fill("source", 4 * eye[:2], probs, torch.tensor([0, 1]), rule)
    other = torch.tensor([[0.1, 0.8, 0.1], [0.1, 0.2, 0.7]])
    if target:
        banks.fill("target", 5 * eye[1:], other, torch.tensor([-1, -1]), rule)
    else:
        banks.fill("target", eye[:0], other[:0], torch.zeros(0, dtype=torch.int64), rule)
    return banks


def test_an_absent_class_gets_its_text():
    banks = make("text")
    texts = 3 * torch.eye(3).flip(0)
    assert banks.settle(texts) == 2
    wanted = torch.stack([torch.eye(3), torch.eye(3)])
    wanted[0, 2], wanted[1, 0] = texts[2] / 3, texts[0] / 3
    assert torch.equal(banks.centres, wanted)
    assert banks.allowed.all()


def test_an_absent_class_is_masked():
    banks = make("mask")
    assert banks.settle(torch.eye(3)) == 2
    assert banks.allowed.tolist() == [[True, True, False], [False, True, True]]


@pytest.mark.parametrize("empty", ["text", "mask"])
def test_a_single_domain_serves_as_both(empty):
    banks = make(empty, target=False)
    banks.settle(torch.eye(3))
    assert torch.equal(banks.centres[0], banks.centres[1])
    assert torch.equal(banks.allowed[0], banks.allowed[1])
    assert bool(banks.usable)


@pytest.mark.parametrize("empty", ["text", "mask"])
def test_two_empty_banks_are_not_usable_and_said_so(empty, caplog):
    banks = DualBanks(3, 3, 2, empty)
    wrong = torch.tensor([[0.8, 0.1, 0.1]])
    banks.fill("source", torch.ones(1, 3), wrong, torch.tensor([1]), "prediction")
    banks.fill("target", torch.ones(1, 3)[:0], wrong[:0], torch.zeros(0, dtype=torch.int64), "prediction")
    with caplog.at_level(logging.WARNING):
        banks.settle(torch.eye(3))
    assert not bool(banks.usable)
    assert "not aligned" in caplog.text


def test_banks_are_detached_float32_buffers(drawn):
    features, probs, labels = drawn
    banks = DualBanks(DIM, CLASSES, 2, "text")
    banks.fill("source", features.double().requires_grad_(), probs.double(), labels, "probability")
    banks.settle(torch.eye(CLASSES)[:, :DIM].requires_grad_())
    state = banks.state_dict()
    assert {"centres", "allowed", "built", "usable", "source.features", "target.features"} <= state.keys()
    assert state["source.features"].dtype == state["centres"].dtype == torch.float32
    assert not any(tensor.requires_grad for tensor in banks.buffers())
    assert list(banks.parameters()) == []
    again = DualBanks(DIM, CLASSES, 2, "text")
    again.load_state_dict(state)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in state.items())
