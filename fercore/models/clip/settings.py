"""Which CLIP, and where its weights come from."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, field_validator

from fercore.config import Settings
from fercore.files import absolute


class ClipSettings(Settings):
    """A CLIP of open_clip's own ViT or ResNet kind."""

    model: str = Field("ViT-B-16", description="an open_clip ViT or ResNet, or 'tiny' (ViT, 64 px) or 'tiny-rn'")
    pretrained: str = Field(
        "none", description="an open_clip tag, a local .safetensors or torch file, or 'none' = random by seed"
    )
    checkpoint_blocks: bool = Field(
        False, description="recompute transformer blocks in the backward pass: less memory, more time"
    )

    @field_validator("pretrained")
    @classmethod
    def _from_everywhere(cls, value: str) -> str:
        return value if file_of(value) is None else absolute(value)


def file_of(pretrained: str) -> Path | None:
    """Return the path that a setting means, or None for a tag."""
    path = Path(os.path.expanduser(pretrained))
    is_path = path.suffix in (".safetensors", ".pt", ".pth", ".bin") or len(path.parts) > 1 or os.path.isfile(path)
    return path if is_path else None  # os.path, unlike pathlib, takes a name that is too long for one that is not there
