"""The ordinary network of a method: a whole backbone and one linear head."""

from __future__ import annotations

from torch import nn

from fercore.config import ModelSettings
from fercore.models.backbones import build_backbone
from fercore.models.model import HeadOnBackbone, Model


def build_classifier(
    settings: ModelSettings,
    num_classes: int,
    *,
    branch: nn.Module | None = None,
    name: str = "main",
    unit_length: bool = False,
) -> Model:
    """Build a backbone with one branch and a linear head behind dropout.

    Args:
        settings: `config.model`. num_classes: K.
        branch: from pooled features float[B,D] to float[B,D]; None = as they are. name: of the branch.
        unit_length: the branch scales each row to length 1.

    Raises:
        UserInputError: as `build_backbone`.
    """
    trunk = build_backbone(settings)
    branch, layer = branch or nn.Identity(), nn.Linear(trunk.channels, num_classes)
    head = nn.Sequential(nn.Dropout(settings.dropout), layer)
    # Layers with weights stand between the backbone and the head, which then takes other features.
    own = {} if any(True for _ in branch.parameters()) else {name: HeadOnBackbone(layer, unit_length=unit_length)}
    return Model(trunk.module, {name: branch}, {name: head}, trunk.mean, trunk.std, own)
