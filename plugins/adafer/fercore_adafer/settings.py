"""Settings of adafer: every switch of the paper and of its ablations, and what the paper leaves open."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from fercore.plugin import Settings

SCHEMES = ("s_hard", "t_hard", "t_soft")
Baseline = Literal["none", "au_lookup", "hard_labels", "soft_labels", "joint"]
_MATCH = re.compile(r"hamming<=([1-9]\d?)")


class AnnotatingSettings(Settings):
    """AU-guided annotating, AGA (section 3.3, Eqs 1-3)."""

    on: bool = Field(True, description="Table 3: false = no pseudo labels")
    scheme: str = Field("s_hard+t_soft", description="s_hard, t_hard, t_soft, or several joined by '+' (Figure 5)")
    match: str = Field("exact", description="exact (Eqs 1-2), or hamming<=D: codes that differ in at most D units")
    unmatched: Literal["drop", "nearest"] = Field("drop", description="a target no source image matches")

    @field_validator("scheme")
    @classmethod
    def _known_schemes(cls, value: str) -> str:
        names = [name.strip().lower().replace("-", "_") for name in value.split("+")]
        if any(name not in SCHEMES for name in names) or len(set(names)) < len(names):
            raise ValueError(f"take {', '.join(SCHEMES)}, or several of them joined by '+'")
        return "+".join(name for name in SCHEMES if name in names)

    @field_validator("match")
    @classmethod
    def _known_match(cls, value: str) -> str:
        text = value.replace(" ", "")
        if text != "exact" and not _MATCH.fullmatch(text):
            raise ValueError("take exact, or hamming<=D with D from 1 up")
        return text

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes in use; none where AGA is off."""
        return tuple(self.scheme.split("+")) if self.on else ()

    @property
    def radius(self) -> int:
        """How many units two matching codes may differ in."""
        match = _MATCH.fullmatch(self.match)
        return int(match[1]) if match else 0


class SourceHardSettings(Settings):
    """S-hard where several source images with one code have different labels (the paper does not say)."""

    conflict: Literal["pair", "random", "majority", "last"] = Field(
        "pair", description="label of the source image of the triplet, of a random match, of most matches, of the last"
    )


class TripletSettings(Settings):
    """AU-guided triplet training, AGT (section 3.4, Eq 4)."""

    on: bool = Field(True, description="Table 3: false = no triplets")
    anchors: Literal["source", "target", "both"] = Field("both", description="Table 2: the anchors' domain")
    gamma: float = Field(0.5, gt=0, le=2, description="margin (Figure 6); where it learns, its first value")
    tau_n: float = Field(0.5, ge=-1, le=1, description="Table 4: least AU similarity of a negative to its anchor")
    sim: Literal["cosine", "one_minus_l1"] = Field("cosine", description="similarity of AU scores")
    resample: Literal["once", "epoch"] = Field("epoch", description="when triplets are drawn")
    exclude_same_label: bool = Field(
        False, description="source negatives of a target anchor must not have its pseudo label's class"
    )


class MarginSettings(Settings):
    """The learnable margin (Figure 6)."""

    mode: Literal["fixed", "learnable"] = Field("fixed", description="agt.gamma as it is given, or as the start")
    floor: float = Field(0.1, ge=0, description="learnable: the margin stays above this")
    pull: float = Field(
        2.0, ge=0, description="learnable: weight of (margin - agt.gamma)^2, as triplets only shrink it"
    )


class AdaFerSettings(Settings):
    """Settings of adafer."""

    variant: Literal["paper", "official"] = Field("paper", description="no official code exists: only 'paper' can run")
    baseline: Baseline = Field(
        "none", description="rows #2 to #5 of Table 1: au_lookup, hard_labels, soft_labels, joint"
    )
    beta: float = Field(1.0, ge=0, description="weight of the pseudo-label terms (Eq 3)")
    epsilon: float = Field(1.0, ge=0, description="weight of the triplet loss")
    kl: Literal["q_p", "p_q"] = Field("q_p", description="direction of the divergence of T-soft")
    source_pretrain_epochs: int = Field(0, ge=0, description="epochs of source cross-entropy alone before everything")
    epochs: int = Field(0, ge=0, description="length in epochs, lr times lr_decay after each; 0 = train.steps, optim")
    lr_decay: float = Field(0.9, gt=0, le=1, description="with epochs: factor on the learning rate each epoch")
    finetune_steps: int = Field(0, ge=0, description="baselines #3 to #5: steps on the target; 0 = as many as before")
    aga: AnnotatingSettings = AnnotatingSettings()
    s_hard: SourceHardSettings = SourceHardSettings()
    agt: TripletSettings = TripletSettings()
    gamma: MarginSettings = MarginSettings()

    @field_validator("variant")
    @classmethod
    def _no_official_code(cls, value: str) -> str:
        if value == "official":
            raise ValueError("AdaFER has no official code to follow; take variant=paper")
        return value
