"""Configurations of CLIP that can be built here: open_clip's own ViT and ResNet models, and two small ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import open_clip

from fercore.errors import UserInputError, did_you_mean

SHORT_VOCABULARY = 2048
"""Tokens of the small models: bytes, the most frequent merges of open_clip's byte pairs, start and end."""

_SMALL_TEXT = {"context_length": 32, "vocab_size": SHORT_VOCABULARY, "width": 64, "heads": 4, "layers": 4}
SMALL: dict[str, dict[str, Any]] = {
    "tiny": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 96, "layers": 4, "head_width": 16},
        "text_cfg": _SMALL_TEXT,
    },
    "tiny-rn": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": _SMALL_TEXT,
    },
}


def clip_config(name: str, *, where: str) -> dict[str, Any]:
    """Return a configuration by name.

    Args:
        where: what an error calls the setting that names it.

    Raises:
        UserInputError: for a name nobody knows (with the nearest), or a model that cannot be prompted here.
    """
    if name in SMALL:
        return SMALL[name]
    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        fix = did_you_mean(name, known_models())
        raise UserInputError(f"unknown CLIP model {name!r}", where=where, fix=fix)
    obstacle = _obstacle(config)
    if obstacle:
        fix = f"take one of open_clip's own ViT or ResNet models: {did_you_mean(name, known_models())}"
        raise UserInputError(f"CLIP model {name!r} cannot be prompted: {obstacle}", where=where, fix=fix)
    return dict(config)


@cache
def known_models() -> tuple[str, ...]:
    """Return the names of all configurations that can be prompted."""
    own = [name for name in open_clip.list_models() if not _obstacle(open_clip.get_model_config(name))]
    return (*SMALL, *own)


def _obstacle(config: dict[str, Any]) -> str | None:
    """Say what keeps a configuration from being prompted; None if nothing does."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        return "it has a caption decoder (CoCa)"
    if vision.get("timm_model_name"):
        return f"its image tower is timm's {vision['timm_model_name']}"
    if text.get("hf_model_name"):
        return f"its text tower is {text['hf_model_name']} of the transformers library"
    if text.get("hf_tokenizer_name"):
        return f"its words are divided by {text['hf_tokenizer_name']}, not by CLIP's byte pairs"
    if text.get("tokenizer_kwargs") or text.get("tokenizer_mode"):
        return "its tokenizer has settings of its own"
    return None
