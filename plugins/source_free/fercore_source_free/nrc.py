"""NRC: "Exploiting the Intrinsic Neighborhood Structure for Source-free Domain Adaptation", Yang et al.,
NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from fercore.losses import class_divergence, nearest_others, neighbour_agreement, reciprocal_affinity
from fercore.models import Model
from fercore.plugin import Batch, Forward, LossTerm, Role, Settings, hookimpl
from fercore_source_free.banks import Banked
from fercore_source_free.base import TARGET, TrainedSettings, log_probs_of
from fercore_source_free.presets import presets


class NrcSettings(TrainedSettings):
    """Settings of nrc."""

    nearest: int = Field(5, ge=1, description="neighbours of a sample (K)")
    theirs: int = Field(5, ge=1, description="neighbours of each of those (M)")
    low: float = Field(0.1, ge=0, description="weight of neighbours that are not mutual, and of theirs (r)")
    diversity: float = Field(1.0, ge=0, description="weight of the negative entropy of the mean prediction")


class NRC(Banked):
    """Predicts as nearest neighbours do, mutual ones most, and theirs a little."""

    paper = "Yang et al., NeurIPS 2021"
    Settings: ClassVar[type[Settings]] = NrcSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("nrc", {"optim": {"lr": 1e-3}})
    settings: NrcSettings

    @property
    def evens(self) -> bool:
        """Whether it pushes towards equal classes."""
        return self.settings.diversity > 0

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward) -> Sequence[LossTerm]:
        """Return agreement with neighbours, with theirs, and the entropy of the mean."""
        log_probs, chosen, index = log_probs_of(encoded[TARGET]), self.settings, batch.target.index
        own, features, kept = self.renewed(model, batch, encoded[TARGET])
        near = nearest_others(own, features, index, chosen.nearest)
        rows = near.flatten()
        theirs = nearest_others(features[rows], features, rows, chosen.theirs).view(*near.shape, -1)
        affinity = reciprocal_affinity(near, theirs, index, chosen.low)
        probs = log_probs.exp()
        direct = neighbour_agreement(probs, kept[near], affinity)
        expanded = neighbour_agreement(probs, kept[theirs.flatten(1)], chosen.low)
        terms = [
            LossTerm(f"{self.name}/neighbours", Role.CONSISTENCY, direct),
            LossTerm(f"{self.name}/their_neighbours", Role.CONSISTENCY, expanded),
        ]
        if chosen.diversity:
            value = class_divergence(log_probs)
            terms.append(LossTerm(f"{self.name}/diversity", Role.REGULARISER, value, chosen.diversity))
        return terms
