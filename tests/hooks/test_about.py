"""`fercore plugins` says kind, purpose and paper of every plugin without importing one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fercore.hooks.about import About, about, plugin_lines
from fercore.hooks.discovery import PluginInfo, installed_plugins, load_class

BASE = '''
from fercore.hooks import Plugin

class Base(Plugin):
    """A base."""

    kind = "addon"
    paper = "Base, 2001"
'''
MODULE = '''
raise RuntimeError("imported")
from .base import Base as Parent
from outside_about.base import Base

class Own(Parent):
    """Sharpens what
    is blunt. More on it.

    Still more.
    """

    paper = "Own, 2020"

class Bare(Base):
    pass

class Computed(Base):
    """Says it another way"""
    paper = f"{1 + 1}"

class Loop(Loop):
    """Its own base."""
'''


def info(target, name="x", summary="The package's sentence."):
    return PluginInfo(name, target, "outside", "1.0", summary)


@pytest.fixture
def outside(tmp_path, monkeypatch):
    package = tmp_path / "outside_about"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import Own\nraise RuntimeError('imported')\n")
    (package / "base.py").write_text(BASE)
    (package / "inner.py").write_text(MODULE)
    (package / "broken.py").write_text("class (")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("found", installed_plugins().values(), ids=lambda found: found.name)
def test_the_source_says_what_the_class_says(found):
    said, plugin = about(found), load_class(found)
    assert (said.kind, said.paper) == (plugin.kind, plugin.paper)
    assert said.purpose
    first = " ".join((plugin.__doc__ or "").strip().partition("\n\n")[0].split())
    assert first.startswith(said.purpose)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("outside_about.inner:Own", About("addon", "Sharpens what is blunt", "Own, 2020")),
        ("outside_about:Own", About("addon", "Sharpens what is blunt", "Own, 2020")),
        ("outside_about.inner:Bare", About("addon", "The package's sentence", "Base, 2001")),
        ("outside_about.inner:Computed", About("addon", "Says it another way", "")),
        ("outside_about.inner:Loop", About("unknown", "Its own base", "")),
        ("outside_about.inner:Nobody", About("unknown", "The package's sentence", "")),
        ("outside_about.broken:X", About("unknown", "The package's sentence", "")),
        ("no_such_package_at_all.x:X", About("unknown", "The package's sentence", "")),
        ("sys:X", About("unknown", "The package's sentence", "")),
        (":", About("unknown", "The package's sentence", "")),
    ],
)
def test_a_class_is_followed_to_its_bases_and_nothing_is_imported(outside, target, expected):
    assert about(info(target)) == expected
    assert not any(name.startswith("outside_about") for name in sys.modules)


def test_each_package_is_named_once_with_a_line_for_each_plugin():
    lines = plugin_lines(installed_plugins().values())
    heads = [line for line in lines if not line.startswith("  ")]
    assert len(set(heads)) == len(heads) < len(lines) - len(heads)
    assert len(set(lines)) == len(lines)
    assert "  source_only        method  Cross-entropy on the source; a whole backbone, one linear head" in lines


def test_listing_imports_no_plugin():
    code = (
        "import sys; from fercore.cli import main; sys.argv = ['fercore', 'plugins']\n"
        "try: main()\nfinally: assert not {'torch', 'fercore.builtin', 'fercore_ssl', 'fercore_pca'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
