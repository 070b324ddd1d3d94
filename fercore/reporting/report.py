"""Making a report: read, look into data and networks where they still are, draw, write one file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fercore.errors import UserInputError
from fercore.writing import refuse_taken, write_text

POINTS, FACES = 400, 6
"""Images of each side in a t-SNE, and faces at each end of a class."""


def write_report(path: Path, out: Path, *, faces: bool = True) -> None:
    """Write the report of a finished run, or of a comparison.

    Args:
        path: the folder of one. out: a new .html file. faces: whether face images are in it.

    Raises:
        UserInputError: if there is nothing to report on, a package is missing, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise UserInputError("reports need matplotlib", fix="pip install 'fercore[report]'")
    refuse_taken(out, ".html")
    from fercore.experiments.comparison import COMPARE
    from fercore.reporting.comparison_page import comparison_page
    from fercore.reporting.html import render
    from fercore.reporting.run_page import run_page, view_of

    if (path / COMPARE).is_file():
        page = comparison_page(path, POINTS, FACES if faces else 0)
    else:
        page = run_page(view_of(path, POINTS, FACES if faces else 0))
    write_text(out, render(page))
