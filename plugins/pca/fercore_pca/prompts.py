"""Learnable text prompts, and the maps that make visual prompts of them (section II-B; MaPLe, Khattak et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.models.clip import Clip
from fercore.plugin import SIDES, Side
from fercore_pca.settings import PromptSettings

WORDS = "a photo of a"
"""The words that `prompt.init = "words"` starts from (MaPLe's CTX_INIT); with k below 4 the others stay words."""


class Prompts(nn.Module):
    """Q_l and T_l: text prompts of the first J layers, and P_l = T_l(Q_l) for the image tower.

    Args:
        clip: whose widths and layers.
        settings: number, depth, start; k above 0.
        pool: a ResNet gets T_0(Q_0) in its attention pool; else its image tower has no prompts.
        sides: sets of maps: one that both domains share, or one for each.

    Attributes:
        text: f[J,k,d_w], J = min(depth, layers of the towers). maps: set -> Linear(d_w, d_v) a prompted layer of the
            image tower; none without visual prompts.
    """

    def __init__(self, clip: Clip, settings: PromptSettings, *, pool: bool, sides: Sequence[str]) -> None:
        super().__init__()
        resnet = clip.kind == "resnet"
        layers = min(settings.depth, clip.text_layers if resnet else min(clip.text_layers, clip.vision_layers))
        seen = 0 if not settings.visual else (int(pool) if resnet else layers)
        self.pooled = resnet
        start = settings.std * torch.randn(layers, settings.k, clip.text_width)
        if settings.init == "words":
            start[0] = word_embeddings(clip, settings.k)
        self.text = nn.Parameter(start)
        self.maps = nn.ModuleDict(
            {
                side: nn.ModuleList(nn.Linear(clip.text_width, clip.vision_width) for _ in range(seen))
                for side in (sides if seen else ())
            }
        )

    @property
    def visual(self) -> bool:
        """Whether images are encoded with prompts."""
        return len(self.maps) > 0

    def vision(self, side: Side) -> dict[str, Tensor]:
        """Return `encode_images`' arguments with the visual prompts of a domain; none where there are no maps."""
        if not self.visual:
            return {}
        maps: Any = self.maps[side if side in self.maps else SHARED]
        pairs = zip(maps, self.text[: len(maps)], strict=True)
        made = torch.stack([F.linear(tokens, layer.weight, layer.bias) for layer, tokens in pairs])
        return {"pool_prompts": made[0]} if self.pooled else {"prompts": made}


SHARED = "shared"


def sets_of_maps(per_domain: bool) -> tuple[str, ...]:
    """Return the names of the sets of text-to-vision maps."""
    return tuple(SIDES) if per_domain else (SHARED,)


@torch.no_grad()
def word_embeddings(clip: Clip, k: int) -> Tensor:
    """Return the word embeddings f[k,d_w] of the first k of "a photo of a"."""
    network: Any = clip.network
    tower = network if hasattr(network, "token_embedding") else network.text
    embedded: Tensor = tower.token_embedding(clip.tokenize([WORDS])[0, 1 : 1 + k])
    return embedded.detach().clone()
