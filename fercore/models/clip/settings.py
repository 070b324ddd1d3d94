"""Which CLIP, and where its weights come from."""

from __future__ import annotations

from pydantic import Field

from fercore.config import Settings


class ClipSettings(Settings):
    """A CLIP of open_clip's own ViT or ResNet kind."""

    model: str = Field("ViT-B-16", description="an open_clip ViT or ResNet, or 'tiny' (ViT, 64 px) or 'tiny-rn'")
    pretrained: str = Field(
        "none", description="an open_clip tag, a local .safetensors or torch file, or 'none' = random by seed"
    )
    checkpoint_blocks: bool = Field(
        False, description="recompute transformer blocks in the backward pass: less memory, more time"
    )
