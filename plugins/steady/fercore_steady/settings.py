"""Settings of steady: every part can be turned off by one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from fercore.plugin import Settings

Trust = Literal["adaptive", "soft", "fixed"]
Prior = Literal["estimated", "source", "uniform"]


class SteadySettings(Settings):
    """Weights of terms are 0 for a part that is left out."""

    views: Literal["two", "one"] = Field(
        "two",
        description="heads: on the whole map and on its quarters, where the backbone yields a map; or on the whole",
    )
    statistics: Literal["target", "both"] = Field(
        "target", description="batch statistics kept for evaluation: of the target's weak views alone, or of all"
    )
    agreement: float = Field(0.5, ge=0, description="weight of the views' mutual consistency")
    entropy: float = Field(0.5, ge=0, description="weight of the target's mean entropy")
    diversity: float = Field(0.5, ge=0, description="weight of the divergence from the class shares")
    prior: Prior = Field("estimated", description="class shares that predictions are spread by")
    prior_trust: float = Field(0.5, ge=0, le=1, description="of estimated: its share, the rest is the source's")
    prior_every: int = Field(20, ge=1, description="of estimated: steps between two estimates")
    confusion: float = Field(0.5, ge=0, description="weight of minimum class confusion")
    temperature: float = Field(2.5, gt=0, description="of minimum class confusion")
    consistency: float = Field(1.0, ge=0, description="weight of the strong view's cross-entropy with pseudo labels")
    trust: Trust = Field(
        "adaptive", description="which pseudo labels count: by class, weighed by class, by one threshold"
    )
    threshold: float = Field(0.95, gt=0, le=1, description="of fixed: least probability")
    momentum: float = Field(0.999, ge=0, lt=1, description="of the running confidences")
    teacher: float = Field(
        0.999, ge=0, lt=1, description="decay of the teacher's weights; 0 = the network labels itself"
    )
    warm_up: float = Field(
        0.1, ge=0, le=1, description="share of training in which the target's terms rise to their weight"
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"data": {"source_batch": 64, "target_batch": 64, "class_balanced": True}},
    "small": {
        "data": {"source_batch": 32, "target_batch": 32, "class_balanced": True},
        "train": {"ema": 0.9},
        "steady": {"momentum": 0.9, "teacher": 0.95},
    },
    "demo": {
        "data": {"source_batch": 32, "target_batch": 32, "class_balanced": True},
        "train": {"ema": 0.9},
        "steady": {"momentum": 0.9, "teacher": 0.95},
    },
}
"""small, demo: averages span the share of hundreds of steps that those of the papers span of tens of thousands."""
