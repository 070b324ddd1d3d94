from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from fercore.errors import UserInputError
from fercore.hooks.discovery import GROUP, PluginInfo, find_plugin, installed_plugins, load_class


def point(name, target):
    return importlib.metadata.EntryPoint(name, target, GROUP)


def test_the_baseline_is_found_by_name():
    info = installed_plugins()["source_only"]
    assert (info.distribution, info.target) == ("fercore", "fercore.builtin.supervised:SourceOnly")


def test_listing_imports_no_plugin_and_no_torch():
    code = (
        "import sys; from fercore.hooks.discovery import installed_plugins; installed_plugins();"
        "assert not {'torch', 'fercore.builtin.supervised'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_plugin_names_the_nearest():
    with pytest.raises(UserInputError, match="unknown plugin 'source_onyl'.*did you mean 'source_only'"):
        find_plugin("source_onyl", installed_plugins())


def test_two_packages_with_one_name_are_refused():
    with pytest.raises(UserInputError, match="two packages offer plugin 'x'"):
        installed_plugins([point("x", "a:A"), point("x", "b:B")])


def test_the_same_target_twice_is_one_plugin():
    assert list(installed_plugins([point("x", "a:A"), point("x", "a:A")])) == ["x"]


@pytest.mark.parametrize("name", ["../../../esc/x", "a/b", "", ".", "a b", "a-b", "x\x1b[2J", "9a", "\ufb01t"])
def test_a_name_that_is_no_identifier_is_refused_and_named(name):
    with pytest.raises(UserInputError) as caught:
        installed_plugins([point("x", "a:A"), point(name, "b:B")])
    assert f"package unknown calls a plugin {name!r}, which is no identifier" in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module_at_all:X", "does not import: ModuleNotFoundError"),
        ("fercore.config:nothing", "does not import: AttributeError"),
        ("fercore.config:merge", "is not a class"),
    ],
)
def test_a_broken_plugin_is_named(target, message):
    with pytest.raises(UserInputError, match=message) as caught:
        load_class(PluginInfo("broken", target, "broken-dist", "1.0", ""))
    assert "broken" in str(caught.value)


def test_a_plugin_whose_import_calls_exit_is_named(tmp_path, monkeypatch):
    (tmp_path / "leaves_at_once.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserInputError, match="plugin 'leaver' does not import: SystemExit: 0"):
        load_class(PluginInfo("leaver", "leaves_at_once:X", "dist", "1.0", ""))
