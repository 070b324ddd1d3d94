"""The README's code blocks run: ```bash blocks line by line, ```python blocks as modules."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def test_there_is_something_to_run():
    assert len(BASH) >= 5
    assert PYTHON


@pytest.mark.slow
@pytest.mark.parametrize("line", BASH)
def test_a_command_runs(line, tmp_path):
    command, *arguments = shlex.split(line)
    assert command == "fercore"
    start = [sys.executable, "-c", "from fercore.cli import main; main()"]
    done = subprocess.run([*start, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", PYTHON)
def test_a_module_is_accepted(block):
    from fercore.hooks import Plugin
    from fercore.hooks.checks import check_class

    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    plugins = [v for v in names.values() if isinstance(v, type) and issubclass(v, Plugin) and v is not Plugin]
    assert plugins
    for plugin in plugins:
        check_class(plugin, "readme")


def test_every_plugin_is_listed():
    for path in (Path(__file__).parents[1] / "plugins").glob("*/pyproject.toml"):
        assert f"`{path.parent.name}`" in README
