"""Campaigns of many minutes run when they are asked for by name, and never otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CAMPAIGN = "import pytest\n@pytest.mark.soak\ndef test_long(): pass\ndef test_short(): pass\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selection", "found"),
    [([], "test_short"), (["-m", "not slow"], "test_short"), (["-m", "soak"], "test_long")],
)
def test_a_campaign_runs_only_by_name(tmp_path, selection, found):
    (tmp_path / "test_campaign.py").write_text(CAMPAIGN)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        "-c",
        ROOT / "pyproject.toml",
    ]
    plugin = ["-p", "tests.conftest", "--rootdir", tmp_path, *selection, tmp_path]
    done = subprocess.run([*command, *plugin], cwd=ROOT, capture_output=True, text=True, check=False)
    tests = [line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert tests == [found], done.stdout + done.stderr
