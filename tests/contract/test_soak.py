"""Campaigns of many minutes run when they are asked for by name, and never otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CAMPAIGN = "import pytest\n@pytest.mark.soak\ndef test_long(): pass\ndef test_short(): pass\n"


class Finder:
    """Keeps the names of the tests that are left."""

    def pytest_collection_finish(self, session):
        self.found = [item.name for item in session.items]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selection", "found"),
    [([], "test_short"), (["-m", "not slow"], "test_short"), (["-m", "soak"], "test_long")],
)
def test_a_campaign_runs_only_by_name(tmp_path, selection, found):
    (tmp_path / "test_campaign.py").write_text(CAMPAIGN)
    finder = Finder()
    quietly = ["-q", "--collect-only", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    plugin = ["-p", "tests.conftest", "--rootdir", str(tmp_path), *selection, str(tmp_path)]
    assert pytest.main([*quietly, *plugin], plugins=[finder]) == 0
    assert finder.found == [found]
