"""A package of `fercore plugin new` installs and passes its own tests as it is written."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fercore.scaffold import new_plugin
from fercore.scaffold.package import FILES


def installed(package: Path, site: Path) -> dict[str, str]:
    """Install a package into a folder of its own and return the environment in which Python sees it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, str(package)], check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def own_tests(package: Path, environment: dict[str, str], *options: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "fercore.testing.fixtures"]
    done = subprocess.run(
        [*command, *options], cwd=package, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_method_installs_and_passes_its_own_tests(tmp_path):
    package = new_plugin("mean_pull", out=tmp_path / "package")
    environment = installed(package, tmp_path / "site")
    assert "4 passed" in own_tests(package, environment)
    listed = subprocess.run(
        [sys.executable, "-c", "from fercore.cli import main; main()", "plugins", "mean_pull"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "mean_pull: Cross-entropy on the sources, and means of features brought together" in listed
    assert "mean_pull.weight = 1.0   [number at least 0]" in listed


@pytest.mark.slow
def test_an_addon_installs_and_runs_beside_a_method(tmp_path):
    package = new_plugin("sharper", addon=True, out=tmp_path / "package")
    environment = installed(package, tmp_path / "site")
    assert "3 passed" in own_tests(package, environment, "-k", "not contract")


@pytest.mark.parametrize("addon", [False, True])
def test_what_is_written_is_whole_and_in_order(addon, tmp_path):
    folder = new_plugin("two_words", addon=addon, out=tmp_path / "package")
    places = {place.format(package="fercore_two_words") for place in FILES.values()} | {"LICENSE"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == places
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "fercore-two-words"
    assert project["dependencies"] == ["fercore>=0.1,<1"]
    assert project["entry-points"]["fercore.plugins"] == {"two_words": "fercore_two_words.plugin:TwoWords"}
    assert "Apache License" in (folder / "LICENSE").read_text()
    for command in (["check", "--select", "E,F,I,UP"], ["format", "--check"]):
        ruff = [str(Path(sys.executable).with_name("ruff")), *command, "."]
        done = subprocess.run(ruff, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["My-Method"], "'My-Method' cannot be a plugin's name (fercore plugin new); write small letters"),
        (["class"], "'class' cannot be a plugin's name"),
        (["data"], "'data' is a table of settings that every run has"),
        (["la_cmfer"], "fercore-la-cmfer 0.1.0 offers a plugin 'la_cmfer' here"),
        (["fresh", "--out", "used"], "cannot write: it is there already (used)"),
    ],
)
def test_wrong_names_and_used_folders_are_refused(words, message, fercore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    code, _, error = fercore("plugin", "new", *words)
    assert code == 2
    assert message in error
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_the_next_step_is_told(fercore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = fercore("plugin", "new", "fresh")
    assert code == 0
    assert out.splitlines()[1] == "next: pip install -e 'fercore-fresh[test]' && pytest fercore-fresh"
    assert (tmp_path / "fercore-fresh/LICENSE").is_file()
