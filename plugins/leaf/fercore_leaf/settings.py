"""Settings of leaf and leaf_eaf: every switch of the paper, of its ablations, and of the released code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from fercore.models import CombineKind, ExpertKind, GateKind, StatisticsOf
from fercore.plugin import Settings, merge

Choice = Literal["ambiguous", "ce"]

SHORT = ("expert", "gate", "thresholds")
"""Tables that may be given as their `kind` alone: `expert=linear` is `expert.kind=linear`."""

OFFICIAL_LEVELS: Mapping[str, Any] = {
    "expert": {"shared": True},
    "gate": {"kind": "noisy_topk", "k": 1},
    "combine": "log",
    "dropout": 0.5,
    "feat_norm": True,
}
OFFICIAL_CATEGORY: Mapping[str, Any] = {
    "partition_from": "weak",
    "candidates": "reach_minus_1_max3",
    "statistics": "all",
}
OFFICIAL: Mapping[str, Any] = {
    **OFFICIAL_LEVELS,
    **OFFICIAL_CATEGORY,
    "eaf": {"instance_on": "features"},
    "weak_views": 2,
    "cons": {"weight": "concave", "rescale": True, "mask": True},
    "loss_weights": [0.5, 1.0, 0.1],
    "thresholds": {"kind": "adaptive"},
    "lr_scale": True,
    "shrink": {"rate": 0.02},
}
"""What `variant = "official"` changes where a setting is not given: the choices of the released code."""


class ExpertSettings(Settings):
    """The experts (Figure 3)."""

    kind: ExpertKind = Field("residual", description="Table 2: linear, bottleneck, residual")
    shared: bool = Field(False, description="one set of weights for all experts of a level, as released")
    start: Literal["random", "identity"] = Field(
        "random", description="identity = y = x at first, nearly, so that a trained head behind them goes on as it was"
    )

    @model_validator(mode="after")
    def _wide_enough(self) -> ExpertSettings:
        if self.start == "identity" and self.kind == "bottleneck":
            fix = "with kind=bottleneck set expert.start=random"
            raise ValueError(f"expert.start=identity, as from a trained model, is for experts as wide as x: {fix}")
        return self


class GateSettings(Settings):
    """The gate over the experts (Eqs 3 and 5)."""

    kind: GateKind = Field("softplus_topk", description="the paper's, or the released code's noisy scores")
    k: int = Field(2, ge=1, description="experts that speak for a sample; with 1 the gate cannot learn")
    balance: float = Field(0.0, ge=0, description="weight of a term that spreads the work over the experts")


class LevelSettings(Settings):
    """What the semantic and the instance level are made of; shared by method and add-on."""

    expert: ExpertSettings = ExpertSettings()
    n_experts: int = Field(8, ge=1, description="experts of each level (Fig. 6)")
    gate: GateSettings = GateSettings()
    combine: CombineKind = Field("linear", description="weighted sum, or log of the weighted sum of exponentials")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the features, before the semantic level")
    feat_norm: bool = Field(False, description="scale features to length 1 after the semantic level")


class CategorySettings(Settings):
    """How views are run, and candidate classes chosen (Eqs 6-9); shared by method and add-on."""

    threshold: float = Field(0.9, gt=0, le=1, description="T: probability that the candidates reach together")
    epsilon: float = Field(0.0, ge=0, description="margin between candidates and other classes")
    partition_from: Literal["strong", "weak"] = Field("strong", description="view that chooses; the other is scored")
    candidates: Literal["reach", "reach_minus_1_max3"] = Field("reach", description="Eq 8, or one class fewer, up to 3")
    score: Literal["logits", "prob"] = Field("logits", description="what is held apart")
    statistics: StatisticsOf = Field("weak", description="views whose batch statistics are kept for evaluation")


class Variant(Settings):
    """Base of the two plugins' settings: `variant` sets defaults only, and what is given stays."""

    official: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _lay_under(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {key: {"kind": v} if key in SHORT and isinstance(v, str) else v for key, v in values.items()}
        return merge(cls.official, given) if given.get("variant") == "official" else given


class EafSettings(Settings):
    """Which levels there are (Table 3)."""

    semantic: bool = Field(True, description="experts before the normalisation")
    instance: bool = Field(True, description="experts after the normalisation")
    category: bool = Field(True, description="false = no term on the unlabelled samples (Table 3, w/o C-EAF)")
    instance_on: Literal["logits", "features"] = Field("logits", description="after the classifier, or before it")


class ConsistencySettings(Settings):
    """What the released code does with the consistency of a batch's samples."""

    weight: Literal["none", "concave"] = Field("none", description="weigh samples by the gap below their candidates")
    rescale: bool = Field(False, description="give the term the value of a cross-entropy with hard labels")
    mask: bool = Field(False, description="multiply by the share of confident samples; with ce, drop the others")


class ThresholdSettings(Settings):
    """Confidence from which a sample counts as confident (Ada-CM's class thresholds)."""

    kind: Literal["none", "adaptive"] = Field("none", description="fixed at the floor, or renewed each epoch")
    floor: float = Field(0.8, ge=0, le=1, description="first and least value")
    scale: float = Field(0.97, ge=0, description="of scale / (1 + exp(-epoch)) times the mean confidence")


class ShrinkSettings(Settings):
    """The released code's decay: weights times 1 - rate * lr after each step."""

    rate: float = Field(0.0, ge=0, description="0 = no decay")
    buffers: bool = Field(False, description="decay running statistics and other buffers of the network too")


class LeafSettings(LevelSettings, CategorySettings, Variant):
    """Settings of leaf. `variant` sets defaults only: a setting that is given stays as given."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)
    official: ClassVar[Mapping[str, Any]] = OFFICIAL

    variant: Literal["paper", "official"] = Field("paper", description="where paper and released code differ")
    eaf: EafSettings = EafSettings()
    consistency: Choice = Field(
        "ambiguous", description="Table 3: candidate classes, or cross-entropy with the top one"
    )
    lambda_: float = Field(1.0, ge=0, alias="lambda", description="weight of the unlabelled term (Eq 1)")
    loss_weights: tuple[float, float, float] = Field(
        (1.0, 1.0, 0.0), description="of the labelled, the unlabelled (times lambda) and the contrastive term"
    )
    temperature: float = Field(0.07, gt=0, description="of the contrastive term")
    weak_views: Literal[1, 2] = Field(1, description="weakly augmented views of an unlabelled sample")
    cons: ConsistencySettings = ConsistencySettings()
    thresholds: ThresholdSettings = ThresholdSettings()
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label spread over all classes")
    epochs: int = Field(0, ge=0, description="length in passes over the longer side; 0 = train.steps")
    lr_scale: bool = Field(False, description="learning rate times the labelled samples of a step / 16")
    shrink: ShrinkSettings = ShrinkSettings()

    @model_validator(mode="after")
    def _weights_fit(self) -> LeafSettings:
        if min(self.loss_weights) < 0:
            raise ValueError("loss_weights must be at least 0")
        if self.loss_weights[2] > 0 and self.weak_views < 2:
            raise ValueError("a contrastive term (loss_weights, third) compares two weak views: set weak_views=2")
        return self


class LeafEafSettings(LevelSettings, CategorySettings, Variant):
    """Settings of leaf_eaf. `variant` sets defaults only: a setting that is given stays as given."""

    official: ClassVar[Mapping[str, Any]] = {**OFFICIAL_LEVELS, **OFFICIAL_CATEGORY}

    variant: Literal["paper", "official"] = Field("paper", description="where paper and released code differ")
    semantic: bool = Field(True, description="a mixture on the features of every branch")
    instance: bool = Field(True, description="a mixture on the logits of every branch")
    consistency: Literal["replace", "where_present", "keep"] = Field(
        "replace",
        description="candidate classes in place of the method's consistency terms, added to a method without any; "
        "only where it has some; or the method's own stay",
    )
    weight: float = Field(1.0, ge=0, description="of the term that takes their place")
    samples: Literal["all", "trusted"] = Field(
        "all", description="unlabelled samples in that term; trusted = each as much as the method's pseudo label weighs"
    )
