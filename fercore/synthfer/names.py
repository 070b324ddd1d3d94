"""Names that SynthFER shares with its users: the styles and the facial action units."""

from __future__ import annotations

STYLES: tuple[str, ...] = ("studio", "posed", "web", "wild", "nir", "dark", "thermal")
"""Domains, from the most controlled to the least like a photograph."""

AU_NAMES: tuple[str, ...] = (
    "AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU10", "AU12",
    "AU14", "AU15", "AU17", "AU20", "AU23", "AU25", "AU26", "AU45",
)  # fmt: skip
"""Column order of every action-unit array."""

AU_INDEX: dict[str, int] = {name: column for column, name in enumerate(AU_NAMES)}
"""Action unit -> column."""

MAX_INTENSITY = 5.0
"""FACS intensity E."""
