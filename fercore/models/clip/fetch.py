"""Fetching published weights of CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_clip.pretrained import download_pretrained

from fercore.models.hub import quick_hub


def fetch_published(published: Mapping[str, Any]) -> str:
    """Return the file of a tag of open_clip, from its cache or fetched.

    Args:
        published: what open_clip knows of the tag.

    Raises:
        Exception: of whatever kind, if it cannot be had.
    """
    with quick_hub():
        return str(download_pretrained(dict(published)))
