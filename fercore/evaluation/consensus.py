"""Which image to label next so that few labels tell the best of several models: consensus-driven active selection.

CODA (Kay et al., ICCV 2025): each model has a Dirichlet belief over each row of its confusion matrix, begun from how it
agrees with the ensemble; the image is taken whose label is expected to tell most of which model is best.
"""

from __future__ import annotations

import numpy as np

DIAGONAL_STRENGTH, CONSENSUS_STRENGTH = 2.0, 0.1
"""Pseudo-counts: of the belief that models are right, and the share of their agreement with the ensemble beside it."""
IMAGINED, LEARNT = 1.0, 0.01
"""What a label adds to the counts: where it is only imagined, and where it was given."""
POINTS = 256


class Consensus:
    """What is believed of several models.

    It mixes, by class, the chances of having the best recall; it is no estimate of an accuracy, and images that are
    chosen by it are no fair sample.

    Args:
        pool_probs: f[M,N,K], predictions of M models for the same images.
    """

    def __init__(self, pool_probs: np.ndarray) -> None:
        self._probs = pool_probs.astype(np.float64)
        k = pool_probs.shape[2]
        self.votes = self._probs.argmax(axis=2)
        elected = np.eye(k)[self._probs.mean(axis=0).argmax(axis=1)]
        confusion = np.einsum("nc,mnj->mcj", elected, self._probs)
        confusion /= np.maximum(confusion.sum(axis=2, keepdims=True), 1e-6)
        right = np.full((k, k), 1 / max(1, k - 1))
        np.fill_diagonal(right, 1.0)
        self.counts = DIAGONAL_STRENGTH * (right + CONSENSUS_STRENGTH * confusion)
        # What a label changes goes by which models it makes right: few of those patterns differ, many images share one.
        self._patterns = [np.unique(self.votes.T == label, axis=0, return_inverse=True) for label in range(k)]

    def image_classes(self) -> np.ndarray:
        """Return f[N,K], what class each image is believed to be of."""
        joint = np.einsum("mcj,mnj->nc", self.counts, self._probs)
        shares: np.ndarray = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-12)
        return shares

    def chances(self) -> np.ndarray:
        """Return f[M], the chance that each model is the best, mixed over the classes by their believed shares."""
        shares: np.ndarray = self.image_classes().mean(axis=0) @ best_of(*self._right_and_wrong())
        return shares

    def information(self, images: np.ndarray) -> np.ndarray:
        """Return f[n], how many bits about the best model the labels of images int[n] are expected to tell."""
        right, wrong = self._right_and_wrong()
        beliefs = self.image_classes()
        class_shares, rows = beliefs.mean(axis=0), best_of(right, wrong)
        before = class_shares @ rows
        after = np.empty((len(images), len(class_shares)))
        for k, (patterns, which) in enumerate(self._patterns):
            moved = best_of(right[k] + IMAGINED * patterns, wrong[k] + IMAGINED * ~patterns)
            after[:, k] = bits(before + class_shares[k] * (moved - rows[k]))[which.ravel()[images]]
        told: np.ndarray = bits(before[None])[0] - (beliefs[images] * after).sum(axis=1)
        return told

    def learn(self, image: int, label: int) -> None:
        """Take in the label of an image."""
        self.counts[np.arange(len(self.votes)), label, self.votes[:, image]] += LEARNT

    def expect(self, image: int) -> None:
        """Take in what the label of an image is believed to be, so that the next image is chosen for something else."""
        beliefs = self.image_classes()[image]
        for label, share in enumerate(beliefs):
            self.counts[np.arange(len(self.votes)), label, self.votes[:, image]] += LEARNT * share

    def _right_and_wrong(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the parameters of the beta distribution of each class's recall, f[K,M] twice."""
        right = np.diagonal(self.counts, axis1=1, axis2=2)
        return right.T, (self.counts.sum(axis=2) - right).T


def best_of(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return f[R,M], for each row the chance that each of M beta variables is the largest.

    The integral of f_h times the product of the other F_l, by the trapezium rule on 256 points.

    Args:
        right, wrong: f[R,M], the parameters of the variables.
    """
    from scipy.integrate import cumulative_trapezoid, trapezoid
    from scipy.stats import beta

    x = np.linspace(1e-6, 1 - 1e-6, POINTS)
    density = beta.pdf(x, right[..., None], wrong[..., None])
    below = np.log(np.maximum(cumulative_trapezoid(density, x, initial=0.0, axis=-1), 1e-30))
    others = np.exp(np.clip(below.sum(axis=1, keepdims=True) - below, -80, 80))
    chances = trapezoid(density * others, x, axis=-1)
    shares: np.ndarray = chances / np.maximum(chances.sum(axis=1, keepdims=True), 1e-30)
    return shares


def bits(shares: np.ndarray) -> np.ndarray:
    """Return the entropy of every row, in bits."""
    p = np.maximum(shares, 1e-12)
    entropies: np.ndarray = -(p * np.log2(p)).sum(axis=-1)
    return entropies


def choose(pool_probs: np.ndarray, n: int, seed: int, known: dict[int, int]) -> list[int]:
    """Return at most n images to label, those first that are expected to tell most, none on which all models agree.

    Args:
        pool_probs: f[M,N,K]. seed: of the choice among equals. known: image -> class, labels that were given before; of
            these images none is chosen again. K stands for none of the classes and tells nothing.
    """
    consensus = Consensus(pool_probs)
    for image, label in known.items():
        if label < pool_probs.shape[2]:
            consensus.learn(image, label)
    rng = np.random.default_rng(seed)
    apart = np.flatnonzero((consensus.votes != consensus.votes[0]).any(axis=0))
    left = rng.permutation(np.setdiff1d(apart, list(known)))
    chosen: list[int] = []
    while len(left) and len(chosen) < n:
        at = int(np.argmax(np.round(consensus.information(left), 12)))  # of equals the first, in an order that is drawn
        chosen.append(int(left[at]))
        consensus.expect(chosen[-1])
        left = np.delete(left, at)
    return chosen
