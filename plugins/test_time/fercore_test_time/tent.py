"""TENT (Wang et al., ICLR 2021): predictions made surer, by scale and shift of the normalisation layers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fercore.losses import log_entropy, log_probabilities
from fercore.plugin import Forward, LossTerm, Role, hookimpl
from fercore_test_time.base import NormSettings, NormTrained, presets, said


class Tent(NormTrained):
    """Minimises the entropy of a batch's predictions, one step a batch."""

    paper = "Wang et al., ICLR 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(name="adam", lr=1e-3)
    settings: NormSettings

    @hookimpl
    def loss(self, encoded: Forward) -> Sequence[LossTerm]:
        """Return the mean entropy (Eq 1)."""
        value = log_entropy(log_probabilities(said(encoded).logits.values())).mean()
        return [LossTerm(f"{self.name}/entropy", Role.REGULARISER, value)]
