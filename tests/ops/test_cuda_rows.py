from __future__ import annotations

import pytest

from fercore.ops import dispatch


def test_groups_too_large_for_cuda_are_said_once(monkeypatch, capsys):
    monkeypatch.delenv("FERCORE_REQUIRE_EXT", raising=False)
    monkeypatch.setattr(dispatch, "_said", [])
    dispatch.too_many_rows(2048)
    dispatch.too_many_rows(4096)
    said = capsys.readouterr().err
    assert "up to 1024 rows, here are 2048" in said
    assert said.count("\n") == 1


def test_a_required_extension_forbids_the_reference(monkeypatch):
    monkeypatch.setenv("FERCORE_REQUIRE_EXT", "1")
    with pytest.raises(dispatch.ExtensionRequiredError, match="up to 1024 rows, here are 2048"):
        dispatch.too_many_rows(2048)
