"""Loss functions shared by methods: pure functions of tensors, with the shapes their docstrings give."""

from __future__ import annotations

from fercore.losses.adversarial import domain_adversarial, ramp, reverse_gradient
from fercore.losses.consistency import mean_absolute, mean_squared, mutual_consistency, symmetric_kl
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
from fercore.losses.thresholds import confident, vote, voted_cross_entropy

__all__ = [
    "confident",
    "domain_adversarial",
    "domain_mean",
    "hardness_weights",
    "logit_square",
    "mean_absolute",
    "mean_squared",
    "mutual_consistency",
    "normalise_weights",
    "pair_contrast",
    "plain_mmd",
    "ramp",
    "remaining_norm",
    "rest_mmd",
    "reverse_gradient",
    "sample_mmd",
    "symmetric_kl",
    "vote",
    "voted_cross_entropy",
]
