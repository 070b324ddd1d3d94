"""CLIP from open_clip, frozen, with learnable prompts: loading, encoding, class sentences, warm-up."""

from fercore.models.clip.context import context_tokens
from fercore.models.clip.encode import Position, encode_images, encode_text
from fercore.models.clip.load import Clip, load_clip
from fercore.models.clip.settings import ClipSettings
from fercore.models.clip.tokens import Tokenizer

__all__ = [
    "Clip",
    "ClipSettings",
    "Position",
    "Tokenizer",
    "context_tokens",
    "encode_images",
    "encode_text",
    "load_clip",
]
