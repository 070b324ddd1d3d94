"""The ordinary network of a method: a whole backbone and one linear head."""

from __future__ import annotations

from torch import nn

from fercore.config import ModelSettings
from fercore.models.backbones import build_backbone
from fercore.models.model import Model


def build_classifier(
    settings: ModelSettings, num_classes: int, *, branch: nn.Module | None = None, name: str = "main"
) -> Model:
    """Build a backbone with one branch and a linear head behind dropout.

    Args:
        settings: `config.model`. num_classes: K.
        branch: from pooled features float[B,D] to float[B,D]; None = as they are. name: of the branch.

    Raises:
        UserInputError: as `build_backbone`.
    """
    trunk = build_backbone(settings)
    head = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(trunk.channels, num_classes))
    return Model(trunk.module, {name: branch or nn.Identity()}, {name: head}, trunk.mean, trunk.std)
