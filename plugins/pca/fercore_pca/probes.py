"""What is learnt on CLIP's image features without prompts and alignment: the reference models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.losses import unit


class Temperature(nn.Module):
    """Zero-shot scores with one learnt factor: it calibrates probabilities and never changes the decision."""

    def __init__(self) -> None:
        super().__init__()
        # In logarithms, the factor stays above 0.
        self.log_factor = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Scale zero-shot logits f[B,C]."""
        return self.log_factor.exp() * logits


class LinearProbe(nn.Module):
    """A linear classifier on standardised features: each image's has mean 0 and variance 1."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Classify features f[B,d]."""
        scores: Tensor = self.head(F.layer_norm(features, features.shape[-1:]))
        return scores


class TextHead(nn.Module):
    """A linear classifier that starts as the zero-shot one: its rows are the class texts, scaled.

    Args:
        texts: f[C,d]. scale: s of Eq 7.
    """

    def __init__(self, texts: Tensor, scale: float) -> None:
        super().__init__()
        self.rows = nn.Parameter(scale * unit(texts).detach())

    def forward(self, features: Tensor) -> Tensor:
        """Classify features f[B,d] by their direction."""
        return unit(features) @ self.rows.mT
