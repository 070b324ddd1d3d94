from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fercore.engine.run import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory, make_context, listener) -> Path:
    """A finished run of three steps on generated faces."""
    home = tmp_path_factory.mktemp("report") / "run"
    layer = {"train": {"steps": 3, "eval_every": 1}}
    run(make_context("source_only", layers=(layer,)), home, listener())
    return home


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """Its copy, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
