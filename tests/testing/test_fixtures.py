"""What an author's tests get: a first batch, a trained run, and a comparison with a literal form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore import testing


def squares(x, weight):
    return (weight * x.square()).sum(1)


def squares_in_words(x, weight):
    return [sum(w * v * v for w, v in zip(weight, row, strict=True)) for row in x]


X = np.linspace(-1, 1, 6).reshape(2, 3)
WEIGHT = np.array([1.0, 2.0, 3.0])


def test_a_literal_form_agrees_in_value_and_gradient(literal):
    literal(squares, squares_in_words, X, WEIGHT)
    literal(lambda x, n: (x**2).sum() * len(n), lambda x, n: (x**2).sum() * len(n), X, [1, 2])


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        (lambda x, w: squares(x, w) * 1.001, "values differ by 1.0e-03"),
        (lambda x, w: squares(x, w.detach()), "gradients by input 1 differ"),
        (lambda x, w: squares(x, w)[None], r"values: shape \(1, 2\) against \(2,\)"),
        (lambda x, w: squares(x, w).detach(), "has no gradient; name its inputs in `constant`"),
    ],
)
def test_a_difference_is_told(ours, message, literal):
    with pytest.raises(AssertionError, match=message):
        literal(ours, squares_in_words, X, WEIGHT)


def test_what_the_paper_holds_constant_is_named(literal):
    literal(lambda x, w: squares(x, w.detach()), squares_in_words, X, WEIGHT, constant=(1,))
    literal(lambda x, w: squares(x, w).detach(), squares_in_words, X, WEIGHT, constant=(0, 1))


def test_the_first_batch_has_what_hooks_get(tiny_batch):
    step = tiny_batch("source_only", {"source_only.label_smoothing": 0.5, "data.target_batch": 7})
    logits = step.encoded["source", "weak"].logits["main"]
    assert logits.shape == (28, 7)
    assert len(step.batch.target) == 7
    assert (step.batch.target.labels == -1).all()
    expected = torch.nn.functional.cross_entropy(logits, step.batch.source.labels, label_smoothing=0.5)
    assert torch.equal(step.terms["source_only/cross_entropy"].value, expected)
    assert step.plugins[0].settings.label_smoothing == 0.5
    assert step.pseudo is None
    assert step.clock.step == 0


@pytest.mark.slow
def test_a_tiny_run_is_a_run(tiny_run):
    run = tiny_run("source_only", {"train.steps": 2})
    assert run.finished
    assert run.result.steps == 2
    assert tiny_run("source_only", {"train.steps": 1}).path != run.path


def test_everything_that_is_promised_is_there():
    assert all(getattr(testing, name) for name in testing.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = testing.nothing
