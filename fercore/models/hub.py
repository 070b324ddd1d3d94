"""The Hugging Face hub: its cache, or a download, without a minute of trials where it is out of reach."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from fercore.errors import UserInputError, reason_of

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


def snapshot(name: str) -> Path | None:
    """Return the folder of a model on the hub, from the cache or fetched.

    Args:
        name: "hf://owner/name[@revision]", also as `Path` writes it (hf:/owner/name); anything else gives None.

    Raises:
        UserInputError: if it cannot be had.
    """
    match = re.fullmatch(r"hf:/{1,2}([^/@]+/[^/@]+)(?:@(.+))?", name)
    if match is None:
        return None
    from huggingface_hub import constants, snapshot_download

    with quick_hub():
        offline = constants.HF_HUB_OFFLINE
        try:
            return Path(snapshot_download(match[1], revision=match[2], local_files_only=offline))
        except Exception as error:  # the client's errors have no common class, and their texts are pages
            reason = "the hub is out of reach, and its cache has none" if offline else reason_of(error)
            what = f"cannot fetch model {match[1]!r}: {reason}"
            fix = "look at its name and revision, or log in with `hf auth login` where it is not public"
            raise UserInputError(what, where=f"hf://{match[1]}", fix=fix) from None


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
