from __future__ import annotations

from pathlib import Path

import pytest

from fercore.synthfer import STYLES
from fercore.synthfer.emotions import PATTERNS
from fercore.synthfer.styles import TABLE

PAGE = Path(__file__).parents[2] / "docs" / "synthfer.md"


def pattern_lines(emotion):
    """The lines of the documentation's table that describe an emotion."""
    total = sum(pattern.weight for pattern in PATTERNS[emotion])
    for pattern in PATTERNS[emotion]:
        core = ", ".join(f"{unit[2:]} ({level:g})" for unit, level in sorted(pattern.core.items())) or "none"
        extra = ", ".join(f"{unit[2:]} {100 * share:.0f} %" for unit, (share, _) in sorted(pattern.extra.items()))
        yield f"| {emotion} | {100 * pattern.weight / total:.0f} % | {core} | {extra} |"


@pytest.mark.parametrize("emotion", PATTERNS)
def test_the_page_lists_every_pattern(emotion):
    text = PAGE.read_text()
    assert all(line in text for line in pattern_lines(emotion))


@pytest.mark.parametrize("style", STYLES)
def test_the_page_shows_every_style_and_its_label_noise(style):
    text = PAGE.read_text()
    assert f"synthfer/{style}.png" in text
    assert (PAGE.parent / "synthfer" / f"{style}.png").stat().st_size < 150_000
    row = next(line for line in text.splitlines() if line.startswith(f"| `{style}` "))
    assert f"| {100 * TABLE[style].label_noise:.0f} % |" in row
