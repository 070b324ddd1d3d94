"""AaD: "Attracting and Dispersing: A Simple Approach for Source-free Domain Adaptation", Yang et al., NeurIPS 2022."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from fercore.losses import dispersion, nearest_others, neighbour_agreement
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Progress, Role, Settings, hookimpl
from fercore_source_free.banks import Banked
from fercore_source_free.base import TARGET, TrainedSettings, log_probs_of
from fercore_source_free.presets import presets

PUBLISHED_BATCH = 64


class AadSettings(TrainedSettings):
    """Settings of aad."""

    nearest: int = Field(5, ge=1, description="neighbours of a sample")
    diversity: float = Field(1.0, ge=0, description="weight of the dispersion at first (alpha)")
    decay: float = Field(5.0, ge=0, description="power of (1 + 10 t)^-decay that it falls by (beta)")
    batch: Literal["sum", "published"] = Field(
        "sum", description="dispersion over the other samples of a batch: their sum, or what it would be of 64"
    )


class AaD(Banked):
    """Predicts as nearest neighbours do, and unlike the other images of the batch."""

    paper = "Yang et al., NeurIPS 2022"
    Settings: ClassVar[type[Settings]] = AadSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("aad", {"optim": {"lr": 1e-3}})
    settings: AadSettings

    def goes_by_length(self) -> str:
        """The weight of the dispersion does."""
        return "decay" if self.settings.decay and self.settings.diversity else ""

    @property
    def evens(self) -> bool:
        """Whether it pushes images of a batch apart."""
        return self.settings.diversity > 0

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return attraction and dispersion."""
        chosen, index = self.settings, batch.target.index
        probs = log_probs_of(encoded[TARGET]).exp()
        own, features, kept = self.renewed(model, batch, encoded[TARGET])
        near = nearest_others(own, features, index, chosen.nearest)
        attraction = neighbour_agreement(probs, kept[near])
        terms = [LossTerm(f"{self.name}/attraction", Role.CONSISTENCY, attraction)]
        if chosen.diversity:
            weight = chosen.diversity * (1 + 10 * clock.progress) ** -chosen.decay
            if chosen.batch == "published":
                weight *= (PUBLISHED_BATCH - 1) / max(1, len(probs) - 1)
            terms.append(LossTerm(f"{self.name}/dispersion", Role.REGULARISER, dispersion(probs), weight))
        return terms
