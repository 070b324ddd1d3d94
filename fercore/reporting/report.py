"""Making a report: read, look into data and networks where they still are, draw, write one file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fercore.errors import UserInputError
from fercore.files import read_text
from fercore.writing import refuse_taken, write_text

POINTS, FACES = 400, 6
"""Images of each side in a t-SNE, and faces at each end of a class."""


NAME, GENERATOR = "report.html", '<meta name="generator" content="fercore">'
"""Where a report goes that nobody named a file for, and what shows that a file there is one."""


def write_report(path: Path, out: Path | None = None, *, faces: bool = True) -> Path:
    """Write the report of a finished run, or of a comparison, and return its file.

    Args:
        path: the folder of one. out: a new .html file; None = `NAME` in that folder, in the place of an earlier report.
        faces: whether face images are in it.

    Raises:
        UserInputError: if there is nothing to report on, a package is missing, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise UserInputError("reports need matplotlib", fix="pip install 'fercore[report]'")
    file = path / NAME if out is None else out
    if out is not None or not _is_report(file):
        refuse_taken(file, ".html")
    from fercore.experiments.comparison import COMPARE
    from fercore.reporting.comparison_page import comparison_page
    from fercore.reporting.html import render
    from fercore.reporting.run_page import beside_reference, run_page, view_of

    if (path / COMPARE).is_file():
        page = comparison_page(path, POINTS, FACES if faces else 0)
    else:
        page = run_page(beside_reference(view_of(path, POINTS, FACES if faces else 0), POINTS))
    write_text(file, render(page))
    return file


def _is_report(file: Path) -> bool:
    """Return whether an earlier report stands there.

    Raises:
        UserInputError: if something else does.
    """
    if not file.is_file():
        return False
    try:
        if GENERATOR in read_text(file):
            return True
    except (OSError, UnicodeDecodeError):
        pass  # what cannot be read is not ours to replace
    fix = "move it away, or name another file with --out"
    raise UserInputError("the file there is no report of fercore", where=str(file), fix=fix)
