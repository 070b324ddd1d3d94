"""From blocks to one HTML file that needs nothing else: no script, no network, every text of others escaped."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fercore.reporting.blocks import Page
from fercore.reporting.style import variables
from fercore.runs.folder import installed_version
from fercore.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fercore.reporting"),
        autoescape=True,
        # A name that the template misspells is an error, and no empty place.
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = anchor
    return environment


def _shown(value: Any) -> Any:
    """Return what the template writes for a value: of a text of others, no character that is not shown as itself."""
    return value if isinstance(value, Markup) else printable(str(value))


def anchor(title: str) -> str:
    """Return a title as the name that a link leads to."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"


def render(page: Page) -> str:
    """Return a page as HTML."""
    template = _environment().get_template("report.html.jinja")
    return template.render(page=page, colours=Markup(variables()), version=installed_version("fercore"))
