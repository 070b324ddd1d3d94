"""How figures look: matplotlib draws in named inks, and the page gives each ink a colour for light, dark and paper."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec

from markupsafe import Markup, escape

from fercore.reporting.blocks import Figure
from fercore.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

P = ParamSpec("P")

SERIES_LIGHT: Final = (
    "#318ce9", "#ee6f04", "#02684b", "#cf7999", "#695b95", "#764e00", "#2f0c61", "#530000",
)  # fmt: skip
SERIES_DARK: Final = (
    "#409cf0", "#d25e12", "#79ffb3", "#a95e9b", "#d6c8ff", "#eabb00", "#7d5bff", "#868e67",
)  # fmt: skip
"""Eight colours for each background. A test keeps any two apart for the three kinds of colour blindness, and each of
them from its background by the contrast that WCAG 2.2 asks of graphics."""
LIGHT: Final = {"page": "#f4f5f7", "surface": "#ffffff", "ink": "#1b1f24", "muted": "#5b6470", "line": "#d3d8de"}
DARK: Final = {"page": "#0e1014", "surface": "#15181d", "ink": "#e8eaed", "muted": "#a3acb8", "line": "#3a414b"}

NAMES: Final = ("ink", "muted", "line", "surface", *(f"s{number}" for number in range(len(SERIES_LIGHT))))
INKS: Final = {name: f"#fe00{number:02x}" for number, name in enumerate(NAMES)}
"""What matplotlib is told instead of a colour; `to_svg` writes the page's variable in its place."""
_INK = re.compile(r"(?<=: )#fe00([0-9a-f]{2})")
_OWN_ID = re.compile(r"""(?<=\bid=")|(?<=url\(#)|(?<=href="#)""")


def series(number: int) -> str:
    """Return the ink of a series; they begin again after eight."""
    return INKS[f"s{number % len(SERIES_LIGHT)}"]


def label(text: object) -> str:
    """Return a text of others as figures show it."""
    return printable(str(text))


def variables() -> str:
    """Return the CSS of the inks: light, dark where the reader's system asks for it, and light on paper."""
    light = _rules({**LIGHT, **{f"s{i}": colour for i, colour in enumerate(SERIES_LIGHT)}})
    dark = _rules({**DARK, **{f"s{i}": colour for i, colour in enumerate(SERIES_DARK)}})
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"


def _rules(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def _settings() -> Any:
    from cycler import cycler

    ink, muted, line = INKS["ink"], INKS["muted"], INKS["line"]
    return {
        # Texts stay texts, to be searched, read out and enlarged; by the salt the same run gives the same file.
        # Class names with a dollar sign are no formulas.
        "svg.fonttype": "none", "svg.hashsalt": "fercore", "text.parse_math": False, "axes.unicode_minus": False,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 11,
        "axes.labelsize": 11, "xtick.labelsize": 10.5, "ytick.labelsize": 10.5, "legend.fontsize": 10.5,
        "text.color": ink, "axes.labelcolor": muted, "axes.titlecolor": ink, "xtick.color": line, "ytick.color": line,
        "xtick.labelcolor": muted, "ytick.labelcolor": muted, "axes.edgecolor": line, "grid.color": line,
        "grid.linewidth": 0.6, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
        "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.6, "axes.facecolor": "none",
        "figure.facecolor": "none", "savefig.facecolor": "none", "figure.dpi": 72,
        "figure.constrained_layout.use": True,
        "axes.prop_cycle": cycler(color=[series(i) for i in range(len(SERIES_LIGHT))]),
    }  # fmt: skip


def drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw in the page's style."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _style():
            return draw(*args, **kwargs)

    return styled


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with warnings.catch_warnings(), rc_context(_settings()):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # texts stay texts, and the browser has others
        yield


def canvas(width: float = 5.0, height: float = 3.8) -> tuple[Canvas, Any]:
    """Return a figure of a size in inches, 72 units each, and its axes; to be called inside `drawn`."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height))
    return figure, figure.add_subplot()


def to_svg(figure: Canvas, alt: str) -> Markup:
    """Return a figure as inline SVG: its inks are the page's, its ids its own, its size that of its place.

    Args:
        alt: what a reader who does not see it is told.
    """
    buffer = io.StringIO()
    # Ticks follow from the width that the layout leaves them, and the layout from them: once alone cuts the last off.
    figure.draw_without_rendering()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    # The XML declaration and document type have no place inside HTML.
    text = text[text.index("<svg") :]
    text = _INK.sub(lambda ink: f"var(--{NAMES[int(ink[1], 16)]})", text)
    # All figures share one page, and matplotlib numbers the clip paths of each from the start.
    text = _OWN_ID.sub(f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-", text)
    # Matplotlib measured with it, and few fonts are wider, so the reader's own fits; no font file is sent along.
    text = text.replace("'DejaVu Sans', ", "")
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Markup(f'<svg {names} viewBox="{box[1]}" role="img" aria-label="{escape(printable(alt))}">{body}')
