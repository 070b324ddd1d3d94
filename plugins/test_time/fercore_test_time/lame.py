"""LAME (Boudiaf et al., CVPR 2022): the answers to a batch made alike for images alike; the network stays as it is."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fercore.losses import Affinity, affinity, laplacian_assignment, to_float32
from fercore.plugin import DomainBatch, Encoded, Model, Progress, Settings
from fercore_test_time.base import TestTime


class LameSettings(Settings):
    """Settings of lame."""

    affinity: Affinity = Field("knn", description="how alike two images are: knn, rbf or linear")
    neighbours: int = Field(5, ge=1, description="of knn and rbf")
    symmetric: bool = Field(False, description="let both directions count half")
    rounds: int = Field(100, ge=1, description="of the iteration, at most")


class LAME(TestTime):
    """Corrects a batch's probabilities by its own neighbours; good on correlated streams, not on shuffled ones."""

    paper = "Boudiaf et al., CVPR 2022"
    Settings: ClassVar[type[Settings]] = LameSettings
    settings: LameSettings

    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Return the corrected probabilities, as logits; a batch of one stays as it is."""
        if len(batch) < 2:
            return encoded
        how, corrected = self.settings, {}
        for name, logits in encoded.logits.items():
            weights = affinity(encoded.features[name].flatten(1), how.affinity, how.neighbours)
            weights = (weights + weights.T) / 2 if how.symmetric else weights
            log_p = to_float32(logits).log_softmax(1)
            corrected[name] = laplacian_assignment(log_p, weights, how.rounds).clamp_min(1e-30).log()
        return Encoded(encoded.features, corrected)
