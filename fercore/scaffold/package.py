"""Fill the templates of a plugin's package: what an author would otherwise copy from another plugin and rename."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
from pathlib import Path
from typing import Any, Final

from fercore.config.settings import SECTIONS
from fercore.errors import UserInputError
from fercore.hooks.discovery import installed_plugins
from fercore.writing import WriteError, is_unused, whole_folder, write_text

FILES: Final = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "github/test.yml": ".github/workflows/test.yml",
    "package/__init__.py": "{package}/__init__.py",
    "package/losses.py": "{package}/losses.py",
    "package/plugin.py": "{package}/plugin.py",
    "package/py.typed": "{package}/py.typed",
    "tests/test_losses.py": "tests/test_losses.py",
    "tests/test_plugin.py": "tests/test_plugin.py",
}
"""Template -> where it stands in the package, `{package}` for the name that Python imports."""
TAKEN: Final = (*SECTIONS, "plugins", "methods", "builtin")
LAST: Final = "LICENSE"
"""Written last: a folder without it is not finished."""


def new_plugin(name: str, *, addon: bool = False, out: Path | None = None) -> Path:
    """Write the package of a new plugin and return its folder.

    Args:
        name: what `--plugin` will take. addon: whether it runs beside a method. out: None = `fercore-NAME` here.

    Raises:
        UserInputError: for a name that is no plugin's, one that is taken, or a folder that cannot be written.
    """
    _check_name(name)
    package = f"fercore_{name}"
    folder = out or Path(f"fercore-{name.replace('_', '-')}")
    if not is_unused(folder):
        raise WriteError("cannot write: it is there already", where=str(folder), fix="choose another folder with --out")
    values = {
        "name": name,
        "addon": addon,
        "package": package,
        "distribution": package.replace("_", "-"),
        "cls": "".join(part.capitalize() for part in name.split("_")),
        "minimum": ".".join(importlib.metadata.version("fercore").split(".")[:2]),
    }
    licence = _licence()
    with whole_folder(folder, LAST) as draft:
        for template, place in FILES.items():
            path = draft / place.format(package=package)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, _render(template, values))
        write_text(draft / LAST, licence)
    return folder


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        fix = "write small letters, digits and _, beginning with a letter: my_method"
        raise UserInputError(f"{name!r} cannot be a plugin's name", where="fercore plugin new", fix=fix)
    if name in TAKEN:
        what = f"{name!r} is a table of settings that every run has"
        raise UserInputError(what, where="fercore plugin new", fix="choose another name")
    other = installed_plugins().get(name)
    if other is not None:
        what = f"{other.distribution} {other.version} offers a plugin {name!r} here"
        raise UserInputError(what, where="fercore plugin new", fix="choose another name, or uninstall that package")


def _licence() -> str:
    """Return the text of fercore's own licence, Apache-2.0, which a new package begins with.

    Raises:
        UserInputError: if the installation has lost it.
    """
    text = importlib.metadata.distribution("fercore").read_text("licenses/LICENSE")
    if text is None:
        raise UserInputError("the installed fercore has no licence file", where="fercore", fix="install fercore again")
    return text


def _render(template: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    places = Environment(
        loader=PackageLoader("fercore.scaffold"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    return places.get_template(f"{template}.jinja").render(values)
