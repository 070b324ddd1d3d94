"""Methods that compare moments of the features: DDC, Deep CORAL, CMD and DFA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fercore.losses import central_moments, coral, discriminant_scatter, mean_discrepancy
from fercore.models import Model
from fercore.plugin import Progress, Settings
from fercore_uda.base import Adaptation, Pair, TermSettings
from fercore_uda.presets import presets


class DdcSettings(TermSettings):
    """Settings of ddc."""

    weight: float = Field(0.25, ge=0, description="weight of the alignment")


class DDC(Adaptation):
    """Squared distance of the mean features."""

    paper = "Tzeng et al., 2014"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = DdcSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("ddc")
    settings: DdcSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return |mean x - mean y|^2."""
        return mean_discrepancy(pair.x, pair.y, pair.weights)


class CoralSettings(TermSettings):
    """Settings of deep_coral."""

    weight: float = Field(10.0, ge=0, description="weight of the alignment")


class DeepCORAL(Adaptation):
    """Distance of the features' covariances."""

    paper = "Sun and Saenko, ECCV workshop 2016"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = CoralSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("deep_coral", paper={"optim": {"lr": 0.003}})
    settings: CoralSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return |C_x - C_y|^2 / (4 D^2)."""
        return coral(pair.x, pair.y, pair.weights)


class CmdSettings(TermSettings):
    """Settings of cmd."""

    order: int = Field(5, ge=2, le=10, description="last moment")
    squash: Literal["tanh", "none"] = Field("tanh", description="what bounds the features, whose powers are taken")


class CMD(Adaptation):
    """Distances of the features' central moments."""

    paper = "Zellinger et al., ICLR 2017"
    weighs_source = True
    Settings: ClassVar[type[Settings]] = CmdSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("cmd")
    settings: CmdSettings

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return the sum over moments of features in [0, 1]: rectified ones have no bound of their own."""
        x, y = (pair.x.tanh(), pair.y.tanh()) if self.settings.squash == "tanh" else (pair.x, pair.y)
        return central_moments(x, y, pair.weights, order=self.settings.order)


class DfaSettings(TermSettings):
    """Settings of dfa."""

    scatter: float = Field(1.0, ge=0, description="weight of the source's scatter within less between classes")


class DFA(DDC):
    """Mean features meet, and the source's classes are tight and apart."""

    paper = "Zhu et al., ICB 2016"
    Settings: ClassVar[type[Settings]] = DfaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("dfa")
    settings: DfaSettings  # type: ignore[assignment]

    def term(self, model: Model, pair: Pair, clock: Progress) -> Tensor:
        """Return |mean x - mean y|^2, and the discriminant scatter of the source."""
        return super().term(model, pair, clock) + self.settings.scatter * discriminant_scatter(pair.x, pair.labels)
