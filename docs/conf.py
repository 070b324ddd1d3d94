"""Sphinx: Markdown pages by MyST, the Python API from docstrings, and what `generate.py` writes before each build."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fercore import __version__  # noqa: E402  # of the checkout, not of what is installed

project = "fercore"
author = "The fercore developers"
copyright = "The fercore developers, Apache-2.0"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "generated"]
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
autodoc_mock_imports: list[str] = []
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"fercore {release}"
html_extra_path = ["generated/files"]
html_static_path = ["static"]
html_css_files = ["site.css"]
# Nothing is fetched from elsewhere, neither while it is built nor by its reader.
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}


def setup(app: object) -> None:
    """Write the generated pages before Sphinx looks for sources, and import what is documented.

    autodoc would import it with TYPE_CHECKING set, under which pydantic cannot build its models.
    """
    import generate

    import fercore.api
    import fercore.testing.contract
    import fercore.testing.literal

    assert fercore.testing.contract
    generate.write_all(HERE)
