"""Which model to trust without target labels: scores as pure functions, from predictions, features and held-out source.

No score is safe alone: each docstring says what fools it.
"""

from fercore.evaluation.selection.validators import (
    AGGREGATE,
    VALIDATORS,
    Evidence,
    aggregate,
    best,
    class_prior,
    evidence_of,
    is_pooled,
    needs,
    needs_source,
    ranks,
    score_pool,
)

__all__ = [
    "AGGREGATE",
    "VALIDATORS",
    "Evidence",
    "aggregate",
    "best",
    "class_prior",
    "evidence_of",
    "is_pooled",
    "needs",
    "needs_source",
    "ranks",
    "score_pool",
]
