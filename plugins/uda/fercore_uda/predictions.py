"""Methods that shape the matrix of the predictions: entropy minimisation, BNM, MCC and DALN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fercore.losses import NormScale, class_confusion, column_norms, mean_entropy, nuclear_norm, reverse_gradient
from fercore.models import Model
from fercore.plugin import Progress, Role, Settings
from fercore_uda.adversaries import Adversarial, ReversalSettings
from fercore_uda.base import Adaptation, Pair, TermSettings
from fercore_uda.presets import presets

CDAN_SET = {
    "data": {"source_batch": 36, "target_batch": 36},
    "optim": {"lr": 0.01, "backbone_multiplier": 0.1, "weight_decay": 5e-4},
}
"""Setting of CDAN's released code, which BNM and GVB took over: 36 + 36 images, new layers at 0.01."""


class EntropySettings(TermSettings):
    """Settings of entropy_min."""

    weight: float = Field(0.1, ge=0, description="weight of the term")


class EntropyMinimisation(Adaptation):
    """The predictions for the target become sure."""

    paper = "Grandvalet and Bengio, NeurIPS 2004"
    role = Role.REGULARISER
    term_name = "entropy"
    of_target = True
    Settings: ClassVar[type[Settings]] = EntropySettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("entropy_min")
    settings: EntropySettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the mean entropy of the target's predictions."""
        return mean_entropy(pair.zy)


class BnmSettings(TermSettings):
    """Settings of bnm."""

    norm: NormScale = Field("batch", description="batch = over M (the paper), min = over min(M,K) (the code), sqrt")
    fast: bool = Field(False, description="column norms in place of singular values (FBNM)")


class BatchNuclearNorm(Adaptation):
    """The predictions for the target become sure and varied."""

    paper = "Cui et al., CVPR 2020"
    role = Role.REGULARISER
    term_name = "nuclear_norm"
    of_target = True
    Settings: ClassVar[type[Settings]] = BnmSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("bnm", paper=CDAN_SET)
    settings: BnmSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return minus the scaled nuclear norm of the target's predictions."""
        norm = column_norms if self.settings.fast else nuclear_norm
        return -norm(pair.zy.softmax(-1), self.settings.norm)


class MccSettings(TermSettings):
    """Settings of mcc."""

    temperature: float = Field(2.5, gt=0, description="temperature of the predictions that are compared")


class MCC(Adaptation):
    """The predictions for the target confuse no class with another."""

    paper = "Jin et al., ECCV 2020"
    role = Role.REGULARISER
    term_name = "confusion"
    of_target = True
    Settings: ClassVar[type[Settings]] = MccSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "mcc", paper={"data": {"source_batch": 36, "target_batch": 36}, "optim": {"lr": 0.005}}
    )
    settings: MccSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the mean share of a class's mass that lies with others."""
        return class_confusion(pair.zy, self.settings.temperature)


class DalnSettings(ReversalSettings):
    """Settings of daln."""

    reversal: Literal["progress", "steps"] = "steps"


class DALN(Adversarial):
    """The head itself tells the sides apart by the nuclear norms of its predictions."""

    paper = "Chen et al., CVPR 2022"
    Settings: ClassVar[type[Settings]] = DalnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("daln", paper=CDAN_SET)
    settings: DalnSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return minus the difference of the nuclear norms, each over its own number of samples."""
        # The reversal is in front of the head: it maximises the difference that the features minimise.
        sides = (reverse_gradient(f, self.strength(clock)) for f in (pair.x, pair.y))
        source, target = (nuclear_norm(model.heads["main"](f).softmax(-1)) for f in sides)
        return target - source
