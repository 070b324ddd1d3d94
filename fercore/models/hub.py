"""The Hugging Face hub: its cache, or a download, without a minute of trials where it is out of reach."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

PATIENCE = 5.0
"""Seconds that the hub's host has to answer a connection."""


@contextmanager
def quick_hub() -> Iterator[None]:
    """Let the hub's client keep its warnings to itself, and look at its cache alone where its host is out of reach."""
    from huggingface_hub import constants

    logger, offline = logging.getLogger("huggingface_hub"), constants.HF_HUB_OFFLINE
    level = logger.level
    logger.setLevel(logging.ERROR)
    # Read at each request by the client; its own trials of an unreachable host take about a minute.
    constants.HF_HUB_OFFLINE = offline or _out_of_reach(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logger.setLevel(level)


def _out_of_reach(endpoint: str) -> bool:
    """Say whether nothing answers at an address; a proxy may reach it all the same."""
    parts = urlsplit(endpoint)
    if getproxies():
        return False
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=PATIENCE).close()
    except OSError:
        return True
    return False
