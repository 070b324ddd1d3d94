"""A plugin package made elsewhere, installed with pip into an environment of its own, runs by name."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "fercore-entropy"
version = "0.3"
description = "Source cross-entropy plus target entropy"
[project.entry-points."fercore.plugins"]
entropy = "fercore_entropy:Entropy"
[tool.setuptools]
py-modules = ["fercore_entropy"]
"""
DOCS = (Path(__file__).parents[2] / "docs/plugins.md").read_text(encoding="utf-8")
MODULE = re.search(r"```python\n(.*?)```", DOCS, re.S)[1]


def test_the_guide_imports_the_stable_module_alone():
    assert set(re.findall(r"(?:from|import) (fercore[\w.]*)", MODULE)) == {"fercore.plugin"}
    assert len(MODULE.splitlines()) <= 40


@pytest.mark.slow
def test_a_package_from_outside_runs_by_name(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(PROJECT)
    (package / "fercore_entropy.py").write_text(MODULE)
    scratch = tmp_path / "env"
    venv.create(scratch, with_pip=True)
    python = scratch / "bin/python"
    site = next((scratch / "lib").glob("python*/site-packages"))
    (site / "host.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", str(package)]
    subprocess.run(install, check=True, capture_output=True)
    fercore = [str(python), "-c", "from fercore.cli import main; main()"]
    listed = subprocess.run([*fercore, "plugins"], check=True, capture_output=True, text=True).stdout
    assert (
        "fercore-entropy 0.3: Source cross-entropy plus target entropy\n  entropy            method  Cross-" in listed
    )
    run = [
        "run",
        "--plugin",
        "entropy",
        "--preset",
        "demo",
        "--out",
        str(tmp_path / "out"),
        "--set",
        "entropy.strength=0.2",
    ]
    small = "data.sources=['synthfer:studio?n=60'] data.target='synthfer:wild?n=60' data.size=32 train.steps=3"
    small += " data.source_batch=14 data.target_batch=14 model.backbone_args.resnet18.channels=[8,8,8,8]"
    for setting in small.split():
        run += ["--set", setting]
    done = subprocess.run([*fercore, *run], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out/result.json").is_file()
    assert "'fercore-entropy'" in str((tmp_path / "out/plugins.json").read_text().replace('"', "'"))
    assert Path(sys.prefix) != scratch
