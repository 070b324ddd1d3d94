"""Information maximisation, centroid labels and cluster votes against versions written out from the papers."""

from __future__ import annotations

import math

import pytest
import torch

from fercore.losses import centroid_labels, class_divergence, cluster_votes, confidence_entropy, purest


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient_of(value, logits):
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


@pytest.mark.parametrize("prior", [None, [0.7, 0.2, 0.1, 0.0]])
def test_information_terms_are_the_papers(prior):
    logits = draw(0, 6, 4).requires_grad_()
    p = [[math.e**0 * z.exp() / sum(y.exp() for y in row) for z in row] for row in logits]
    by_hand = -sum(x * x.log() for row in p for x in row) / 6
    mean = [sum(row[k] for row in p) / 6 for k in range(4)]
    shares = [0.25] * 4 if prior is None else prior
    divergence = sum(m * (m.log() - math.log(max(s, torch.finfo(torch.float64).tiny))) for m, s in zip(mean, shares))  # noqa: B905
    log_p = logits.log_softmax(1)
    own = confidence_entropy(log_p)
    spread = class_divergence(log_p, None if prior is None else torch.tensor(prior, dtype=torch.float64))
    for one, other in ((own, by_hand), (spread, divergence)):
        assert torch.allclose(one, other)
        assert torch.allclose(gradient_of(one, logits), gradient_of(other, logits))
    if prior is None:
        entropy = -sum(float(m.detach()) * math.log(float(m.detach())) for m in mean)
        assert spread.item() == pytest.approx(math.log(4) - entropy)


def test_certain_predictions_have_finite_gradients():
    logits = torch.tensor([[800.0, 0.0, 0.0], [0.0, 900.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = confidence_entropy(logits.log_softmax(1)) + class_divergence(logits.log_softmax(1))
    assert gradient_of(value, logits).isfinite().all()


def labels_by_hand(features, probs, threshold, rounds):
    n, classes = probs.shape
    g = [torch.cat([row, torch.ones(1, dtype=row.dtype)]) for row in features]
    g = [row / row.norm() for row in g]
    predicted = [int(row.argmax()) for row in probs]
    allowed = [k for k in range(classes) if predicted.count(k) > threshold]
    weights = probs.tolist()
    for _ in range(rounds):
        centroids = {}
        for k in allowed:
            total = sum(weights[i][k] for i in range(n))
            if total > 0:
                centroids[k] = sum(weights[i][k] * g[i] for i in range(n)) / total
        labels = [min(centroids, key=lambda k: 1 - float(row @ centroids[k] / centroids[k].norm())) for row in g]
        weights = [[float(label == k) for k in range(classes)] for label in labels]
    return labels


@pytest.mark.parametrize(("threshold", "rounds"), [(0, 2), (3, 2), (0, 1), (2, 3)])
def test_centroid_labels_are_those_of_two_rounds_written_out(threshold, rounds):
    for seed in range(5):
        features, probs = draw(seed, 30, 5), (2 * draw(100 + seed, 30, 4)).softmax(1)
        labels = centroid_labels(features, probs, threshold=threshold, rounds=rounds)
        assert labels.tolist() == labels_by_hand(features, probs, threshold, rounds)


def test_classes_that_no_sample_is_predicted_as_take_no_part():
    probs = torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.9, 0.05, 0.05]])
    assert set(centroid_labels(torch.randn(3, 2), probs).tolist()) <= {0, 1}
    assert centroid_labels(torch.randn(3, 2), probs, threshold=9).tolist() == [0, 1, 0]


def test_clusters_vote_and_the_purest_of_each_class_are_kept():
    clusters = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    labels = torch.tensor([1, 1, 0, 0, 0, 1, 1, 1, 0, 1])
    voted, purity = cluster_votes(clusters, labels, 3)
    assert voted.tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 1, 1]
    assert purity.tolist() == pytest.approx([2 / 3] * 3 + [1, 1, 1] + [3 / 4] * 4)
    assert cluster_votes(clusters, labels, 3, smallest=2)[1][5] == 0
    kept = purest(voted, purity, 0.4)
    assert kept.tolist() == [False, False, False, True, False, True, True, True, False, False]
    assert not purest(voted, torch.zeros(10), 1.0).any()
