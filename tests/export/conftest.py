from __future__ import annotations

import pytest

from fercore.engine.run import run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, make_context, listener):
    """Return the folder of a finished run on generated faces."""
    home = tmp_path_factory.mktemp("exported")
    run(make_context("source_only", layers=({"train": {"steps": 2}},)), home / "run", listener())
    return home / "run"
