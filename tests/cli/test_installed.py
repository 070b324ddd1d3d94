"""Commands that packages bring: listed without an import, loaded when called."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
from typer.testing import CliRunner

from fercore.cli import app
from fercore.errors import UserInputError
from fercore.hooks.discovery import COMMANDS

MODULE = '''
import typer


def register_commands(group: typer.Typer) -> None:
    """Greet people. This sentence is too much."""
    group.command()(hello)


def hello(name: str) -> None:
    """Say hello."""
    typer.echo(f"hello {name}")
'''


@pytest.fixture
def offered(monkeypatch, tmp_path):
    """Let a package offer commands under a name."""
    (tmp_path / "greeter_of_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    known = importlib.metadata.entry_points

    def offer(name, target="greeter_of_tests:register_commands"):
        mine = importlib.metadata.EntryPoint(name, target, COMMANDS)
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda group: [mine] if group == COMMANDS else known(group=group)
        )

    yield offer
    sys.modules.pop("greeter_of_tests", None)


def test_a_command_of_a_package_is_listed_without_an_import_and_runs(offered):
    offered("greet")
    listed = CliRunner().invoke(app, ["--help"])
    assert "greet" in listed.output
    assert "Greet people." in listed.output
    assert "greeter_of_tests" not in sys.modules
    done = CliRunner().invoke(app, ["greet", "hello", "Ada"])
    assert (done.exit_code, done.output) == (0, "hello Ada\n")


def test_a_command_of_the_core_stays_its_own(offered):
    offered("doctor")
    assert CliRunner().invoke(app, ["doctor"]).output.startswith("python ")


def test_a_package_that_does_not_import_is_one_line_and_harms_no_other_command(offered):
    offered("broken", "no_such_module_of_tests:register_commands")
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0
    with pytest.raises(UserInputError, match="'broken' does not import: ModuleNotFoundError"):
        CliRunner().invoke(app, ["broken", "x"], catch_exceptions=False)
