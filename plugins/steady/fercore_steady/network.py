"""Two heads on one backbone: its pooled map, as a source model has it, and the map's quarters."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from fercore.models import Backbone, Model, build_backbone, heads_on_backbone
from fercore.plugin import RunConfig

log = logging.getLogger(__name__)
WHOLE, PARTS = "main", "parts"
"""Branches."""


class MapOf(nn.Module):
    """The last feature map of a network of timm: f[B,3,H,W] -> f[B,C,h,w]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """Return the map that the network would pool."""
        mapped: Tensor = self.module.forward_features(images)  # type: ignore[operator]
        return mapped


class Mean(nn.Module):
    """The mean over a map: f[B,C,h,w] -> f[B,C]."""

    def forward(self, mapped: Tensor) -> Tensor:
        """Return what the network itself yields."""
        return mapped.mean((2, 3))


class Quarters(nn.Module):
    """The means of a map's quarters, side by side: f[B,C,h,w] -> f[B,4C]; h and w are at least 2."""

    def forward(self, mapped: Tensor) -> Tensor:
        """Return upper left, upper right, lower left, lower right; a middle row or column is in both its neighbours."""
        high, wide = mapped.shape[2:]
        rows = (slice(0, (high + 1) // 2), slice(high // 2, high))
        columns = (slice(0, (wide + 1) // 2), slice(wide // 2, wide))
        return torch.cat([mapped[:, :, row, column].mean((2, 3)) for row in rows for column in columns], 1)


def build_views(config: RunConfig, num_classes: int, *, two: bool) -> Model:
    """Build backbone and heads; a second one where it is wanted and the backbone's output is the mean of a map."""
    trunk = build_backbone(config.model)
    heads: dict[str, nn.Module] = {WHOLE: _head(trunk.channels, num_classes, config.model.dropout)}
    if not two or not _is_mean_of_map(trunk, config.data.size):
        if two:
            log.warning(
                "backbone %s yields no map of 2 x 2 at %d px: one view", config.model.backbone, config.data.size
            )
        return Model(trunk.module, {WHOLE: nn.Identity()}, heads, trunk.mean, trunk.std, heads_on_backbone(heads))
    heads[PARTS] = _head(4 * trunk.channels, num_classes, config.model.dropout)
    branches = {WHOLE: Mean(), PARTS: Quarters()}
    return Model(MapOf(trunk.module), branches, heads, trunk.mean, trunk.std, heads_on_backbone(heads, {PARTS: 4}))


def _head(width: int, num_classes: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(width, num_classes))


@torch.no_grad()
def _is_mean_of_map(trunk: Backbone, size: int) -> bool:
    """Try it: names say little, as some networks have a layer behind the pooling."""
    module, training = trunk.module, trunk.module.training
    forward_features = getattr(module, "forward_features", None)
    if not callable(forward_features):
        return False
    module.eval()
    try:
        # No draw: a random image would move the run's generators.
        image = torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)
        mapped = forward_features(image)
        if not isinstance(mapped, Tensor) or mapped.ndim != 4 or min(mapped.shape[2:]) < 2:
            return False
        pooled, own = mapped.mean((2, 3)), module(image)
        return pooled.shape == own.shape and torch.allclose(pooled, own, rtol=1e-3, atol=1e-5)
    except Exception:  # of a network that does not take such an image, which the engine then says with the reason
        return False
    finally:
        module.train(training)
