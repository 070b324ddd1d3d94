"""Loss functions shared by methods: pure functions of tensors, with the shapes their docstrings give."""

from __future__ import annotations

from fercore.losses.adversarial import domain_adversarial, ramp, reverse_gradient
from fercore.losses.ambiguous import ambiguous_consistency, concave_weights, official_positive_set, positive_set
from fercore.losses.consistency import (
    mean_absolute,
    mean_entropy,
    mean_squared,
    mutual_consistency,
    probability_mse,
    self_adaptive_fairness,
    sharpen,
    symmetric_kl,
    weighted_cross_entropy,
)
from fercore.losses.contrastive import UnitLength, info_nce, supcon, unit
from fercore.losses.mmd import (
    domain_mean,
    hardness_weights,
    logit_square,
    normalise_weights,
    pair_contrast,
    plain_mmd,
    remaining_norm,
    rest_mmd,
    sample_mmd,
)
from fercore.losses.precision import to_float32
from fercore.losses.prototypes import class_weights, prototype_ce, prototype_domain_scores
from fercore.losses.soft_targets import masked_cross_entropy, soft_kl
from fercore.losses.thresholds import (
    adaptive_thresholds,
    align_distribution,
    confident,
    curriculum_thresholds,
    labelled_thresholds,
    self_adaptive_thresholds,
    shrinking_threshold,
    truncated_gaussian,
    vote,
    voted_cross_entropy,
)
from fercore.losses.triplet import triplet

__all__ = [
    "UnitLength",
    "adaptive_thresholds",
    "align_distribution",
    "ambiguous_consistency",
    "class_weights",
    "concave_weights",
    "confident",
    "curriculum_thresholds",
    "domain_adversarial",
    "domain_mean",
    "hardness_weights",
    "info_nce",
    "labelled_thresholds",
    "logit_square",
    "masked_cross_entropy",
    "mean_absolute",
    "mean_entropy",
    "mean_squared",
    "mutual_consistency",
    "normalise_weights",
    "official_positive_set",
    "pair_contrast",
    "plain_mmd",
    "positive_set",
    "probability_mse",
    "prototype_ce",
    "prototype_domain_scores",
    "ramp",
    "remaining_norm",
    "rest_mmd",
    "reverse_gradient",
    "sample_mmd",
    "self_adaptive_fairness",
    "self_adaptive_thresholds",
    "sharpen",
    "shrinking_threshold",
    "soft_kl",
    "supcon",
    "symmetric_kl",
    "to_float32",
    "triplet",
    "truncated_gaussian",
    "unit",
    "vote",
    "voted_cross_entropy",
    "weighted_cross_entropy",
]
