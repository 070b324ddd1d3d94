"""Plugins that stand for the others where a test of every plugin is one of soaks."""

from __future__ import annotations

CHOSEN = frozenset(
    {
        "source_only", "adafer", "la_cmfer", "leaf", "leaf_eaf", "pca", "pca_ifer", "clip_zero_shot", "pocan",
        "mfsan", "m3sda", "fixmatch", "dash", "mean_teacher", "mixmatch", "vat", "steady", "shot", "shot_pp", "aad",
        "cotta", "rotta", "tent", "adda", "aglrls", "can_cdd", "cdan", "dann", "dsbn", "ecan", "mcc_term", "mcd",
    }
)  # fmt: skip
"""One or more of every distribution, and of each kind of state: banks, teachers, queues, stages, players that take
turns, networks of their own, statistics of each domain, and no state at all."""
