"""Adaptation without pseudo labels: information maximisation of two views, and their agreement.

SHOT-IM (Liang et al., ICML 2020) gives no image a label; a second, stronger view that must be predicted like the first
(a symmetric Kullback-Leibler divergence, in place of a label) adds what augmentation knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from fercore.losses import symmetric_kl
from fercore.models import Model
from fercore.plugin import Forward, LossTerm, Role, Settings, ViewRequest, hookimpl
from fercore_source_free.base import TARGET, VIEW, log_probs_of
from fercore_source_free.presets import presets
from fercore_source_free.shot import InformationSettings, Informed

STRONG = "strong"


class PseudoLabelFreeSettings(InformationSettings):
    """Settings of pseudo_label_free."""

    agreement: float = Field(1.0, ge=0, description="weight of the divergence between the two views' predictions")


class PseudoLabelFree(Informed):
    """Sure of each image, of all classes over all images, and of the same in a stronger view."""

    paper = "after SHOT-IM, Liang et al., ICML 2020"
    Settings: ClassVar[type[Settings]] = PseudoLabelFreeSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("pseudo_label_free")
    settings: PseudoLabelFreeSettings

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak and a strong view of the target."""
        return [ViewRequest("target", VIEW, "weak"), ViewRequest("target", STRONG, "strong")]

    @hookimpl
    def loss(self, model: Model, encoded: Forward) -> Sequence[LossTerm]:
        """Return L_ent and L_div of the weak view, and the divergence of the strong one from it."""
        weak, strong = log_probs_of(encoded[TARGET]), log_probs_of(encoded["target", STRONG])
        terms = self.information(model, weak)
        if self.settings.agreement:
            value = symmetric_kl(weak, strong)
            terms.append(LossTerm(f"{self.name}/agreement", Role.CONSISTENCY, value, self.settings.agreement))
        return terms
