"""Fetching published weights, without a minute of trials where there is no network."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants
from open_clip.pretrained import download_pretrained


def fetch_published(published: Mapping[str, Any]) -> str:
    """Return the file of a tag of open_clip, from its cache or fetched.

    Args:
        published: what open_clip knows of the tag.

    Raises:
        Exception: of whatever kind, if it cannot be had.
    """
    with _hub():
        return str(download_pretrained(dict(published)))


@contextmanager
def _hub() -> Iterator[None]:
    """Let the hub's client keep its warnings to itself, and look at its cache alone where its host is unknown."""
    logger, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = logger.level
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = offline or _unknown(urlsplit(constants.ENDPOINT).hostname or "")
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _unknown(host: str) -> bool:
    """Say whether a host has no address here; a proxy may know one all the same."""
    if getproxies():
        return False
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return True
    return False
