"""How an emotion becomes action units: several FACS combinations per emotion, each with core and optional units."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fercore.data.labels import CANONICAL
from fercore.synthfer.names import AU_INDEX, AU_NAMES, MAX_INTENSITY
from fercore.synthfer.rng import Array, Draw


@dataclass(frozen=True)
class Pattern:
    """One way to show an emotion.

    Args:
        weight: how often it occurs among the emotion's patterns (relative).
        core: unit -> mean intensity (0-5) at full strength.
        extra: unit -> (probability, mean intensity).
    """

    weight: float
    core: dict[str, float]
    extra: dict[str, tuple[float, float]] = field(default_factory=dict)


PATTERNS: dict[str, tuple[Pattern, ...]] = {
    "anger": (
        Pattern(3, {"AU04": 4.3, "AU05": 2.5, "AU07": 3.2, "AU23": 3.6}, {"AU17": (0.4, 2.5)}),
        Pattern(2, {"AU04": 4.2, "AU05": 1.8, "AU07": 3, "AU10": 2.4, "AU25": 3.4, "AU26": 2.2}, {"AU23": (0.5, 2)}),
        Pattern(2, {"AU04": 3.9, "AU07": 2.8, "AU17": 3, "AU23": 3.2}, {"AU15": (0.2, 1.5)}),
        Pattern(1, {"AU04": 4, "AU07": 3.5, "AU09": 1.6, "AU20": 1.5, "AU25": 2.2}, {"AU10": (0.4, 1.5)}),
    ),
    "disgust": (
        Pattern(3, {"AU09": 4, "AU10": 2.6, "AU04": 1.5}, {"AU17": (0.5, 2.5), "AU25": (0.4, 2)}),
        Pattern(2, {"AU10": 4, "AU15": 2, "AU17": 2.5}, {"AU09": (0.4, 2), "AU07": (0.3, 2)}),
        Pattern(2, {"AU09": 3.5, "AU10": 3.2, "AU25": 2.5, "AU26": 1.2}, {"AU07": (0.5, 2.5), "AU06": (0.4, 1.8)}),
        Pattern(1, {"AU09": 3.4, "AU07": 2.5, "AU15": 2.4, "AU17": 3}),
    ),
    "fear": (
        Pattern(3, {"AU01": 3.8, "AU02": 2.4, "AU04": 2.6, "AU05": 4, "AU20": 3.2, "AU25": 2.6}, {"AU26": (0.3, 1.5)}),
        Pattern(2, {"AU01": 3.5, "AU02": 2.2, "AU04": 2.8, "AU05": 4, "AU25": 3, "AU26": 2.4}, {"AU20": (0.6, 2.5)}),
        Pattern(2, {"AU01": 3.6, "AU04": 3, "AU05": 3.6, "AU20": 3.6, "AU25": 2}, {"AU07": (0.3, 2)}),
        Pattern(1, {"AU01": 3.2, "AU02": 1.5, "AU04": 2.2, "AU05": 3.2, "AU20": 2}, {"AU25": (0.5, 2)}),
    ),
    "happiness": (
        Pattern(3, {"AU06": 3.4, "AU12": 4.2, "AU25": 3.2}, {"AU07": (0.3, 1.5)}),
        Pattern(2, {"AU06": 2.6, "AU12": 3.6}, {"AU14": (0.2, 1.5)}),
        Pattern(2, {"AU06": 4, "AU12": 4.6, "AU25": 4, "AU26": 2.2}, {"AU07": (0.3, 2), "AU02": (0.2, 1.5)}),
        Pattern(1.5, {"AU12": 3.2}, {"AU25": (0.4, 2), "AU01": (0.15, 1.5)}),
    ),
    "sadness": (
        Pattern(3, {"AU01": 3.6, "AU04": 2.4, "AU15": 3.6}, {"AU17": (0.5, 3), "AU45": (0.1, 3)}),
        Pattern(2, {"AU04": 2, "AU15": 3.6, "AU17": 3.2}, {"AU07": (0.3, 2), "AU01": (0.4, 2.5)}),
        Pattern(2, {"AU01": 4, "AU04": 2.6, "AU15": 2.6}, {"AU45": (0.4, 3.5), "AU25": (0.2, 1.5)}),
        Pattern(1, {"AU01": 3.2, "AU06": 2, "AU15": 3, "AU20": 1.5, "AU25": 1.5}),
    ),
    "surprise": (
        Pattern(3, {"AU01": 3.8, "AU02": 4, "AU05": 3, "AU25": 4, "AU26": 4}),
        Pattern(2, {"AU01": 3.5, "AU02": 3.6, "AU25": 3.2, "AU26": 2.6}, {"AU05": (0.5, 2)}),
        Pattern(1.5, {"AU01": 3.6, "AU02": 3.9, "AU05": 3.4, "AU25": 1.5}),
        Pattern(1, {"AU05": 3.6, "AU25": 3.6, "AU26": 3.6}, {"AU02": (0.6, 2.5), "AU01": (0.5, 2)}),
    ),
    "neutral": (
        Pattern(6, {}),
        Pattern(1, {"AU45": 4}),
        Pattern(1, {"AU25": 1.5}),
        Pattern(1, {"AU04": 1}, {"AU07": (0.3, 1)}),
        Pattern(1, {"AU12": 0.8}),
    ),
    "contempt": (
        Pattern(3, {"AU14": 4, "AU12": 2.4}, {"AU07": (0.3, 1.5)}),
        Pattern(1, {"AU14": 3.5, "AU10": 1.6, "AU12": 1.2}, {"AU04": (0.3, 1.5)}),
    ),
}
"""Emotion -> its patterns (after the FACS investigator's guide, simplified)."""

CONFUSED_WITH: dict[str, tuple[str, ...]] = {
    "anger": ("disgust", "sadness", "neutral"),
    "disgust": ("anger", "sadness", "contempt"),
    "fear": ("surprise", "sadness"),
    "happiness": ("neutral", "surprise"),
    "sadness": ("neutral", "fear", "anger"),
    "surprise": ("fear", "happiness"),
    "neutral": ("sadness", "anger", "contempt"),
    "contempt": ("neutral", "disgust"),
}
"""Which emotions a hurried annotator takes for which."""


@dataclass(frozen=True)
class Expression:
    """What the faces of N images do.

    Args:
        intensity: f64[N,17] FACS intensities in [0,5].
        balance: f64[N,2] factors of the image-left and image-right half of the face.
    """

    intensity: Array
    balance: Array


def _tables() -> tuple[Array, Array, Array]:
    """Return pattern weights [8,P], mean intensities [8,P,17] and probabilities [8,P,17]."""
    most = max(len(patterns) for patterns in PATTERNS.values())
    weight = np.zeros((len(CANONICAL), most))
    mean = np.zeros((len(CANONICAL), most, len(AU_NAMES)))
    chance = np.zeros_like(mean)
    for e, emotion in enumerate(CANONICAL):
        for p, pattern in enumerate(PATTERNS[emotion]):
            weight[e, p] = pattern.weight
            for unit, value in pattern.core.items():
                mean[e, p, AU_INDEX[unit]], chance[e, p, AU_INDEX[unit]] = value, 1.0
            for unit, (probability, value) in pattern.extra.items():
                mean[e, p, AU_INDEX[unit]], chance[e, p, AU_INDEX[unit]] = value, probability
    return weight, mean, chance


def express(emotion: NDArray[np.int64], strength: Array, stray: float, draw: Draw) -> Expression:
    """Draw action units for emotions.

    Args:
        emotion: i64[N] canonical emotion of each image.
        strength: f64[N] factor on the intensities of the emotion (1 = as strong as people pose it).
        stray: probability that a unit without reason is slightly active (talking, habit).
        draw: streams of the N images.
    """
    weight, mean, chance = _tables()
    edges = np.cumsum(weight, axis=1)
    point = draw.uniform("pattern") * edges[emotion, -1]
    # A point that rounds up to the total would lie beyond the last pattern.
    pattern = np.minimum((point[:, None] >= edges[emotion]).sum(axis=1), weight.shape[1] - 1)
    mean, chance = mean[emotion, pattern], chance[emotion, pattern]
    columns = []
    for unit, name in enumerate(AU_NAMES):
        active = draw.uniform(f"{name}/on") < chance[:, unit]
        level = np.maximum(mean[:, unit] * strength + draw.normal(f"{name}/level", 0.45), 0.15)
        idle = draw.chance(f"{name}/stray", stray) * draw.uniform(f"{name}/idle", 0.2, 1.8)
        columns.append(np.where(active, np.maximum(level, idle), idle))
    intensity = np.clip(np.stack(columns, axis=1), 0.0, MAX_INTENSITY)
    return Expression(intensity, _balance(emotion, draw))


def _balance(emotion: NDArray[np.int64], draw: Draw) -> Array:
    """Return how strongly each half of the face acts, f64[N,2]; contempt acts on one half."""
    lean = draw.normal("lean", 0.09)
    both = np.stack([1.0 + lean, 1.0 - lean], axis=1)
    one = draw.uniform("one side") < 0.5
    single = np.stack([np.where(one, 1.25, 0.1), np.where(one, 0.1, 1.25)], axis=1)
    return np.where((emotion == CANONICAL.index("contempt"))[:, None], single, both)


def detector_scores(intensity: Array, noise: float, draw: Draw) -> Array:
    """Return a fallible detector's scores f64[N,17] in [0,1]: at least 0.5 where it sees an intensity above 1.2."""
    jitter = np.stack([draw.normal(f"{name}/detector", noise) for name in AU_NAMES], axis=1)
    return 1.0 / (1.0 + np.exp(-2.0 * (intensity + jitter - 1.2)))


def mistaken(labels: NDArray[np.int64], allowed: list[int], rate: float, draw: Draw) -> NDArray[np.int64]:
    """Return i64[N] canonical labels of which about `rate` differ, most of them by a likely confusion."""
    wrong = draw.uniform("mislabel") < rate
    result = labels.copy()
    for label in set(labels[wrong].tolist()):
        likely = [CANONICAL.index(name) for name in CONFUSED_WITH[CANONICAL[label]]]
        others = [k for k in allowed if k != label]
        if not others:
            continue
        weights = [5.0 if k in likely else 1.0 for k in others]
        # Drawn for all images and used for the wrong ones: a draw depends on the image alone.
        taken = np.asarray(others)[draw.choice("mistake", weights)]
        result = np.where(wrong & (labels == label), taken, result)
    return result
