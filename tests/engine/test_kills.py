"""A run that is killed at any moment goes on to the same bits; what a kill left is gone at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kills.py")


def campaign(folder: Path, methods: str, events: str, times: int) -> list[dict]:
    command = [sys.executable, PROGRAM, folder, methods, events, str(times)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kill for kill in kills if kill["ended"] or kill["differing"]] == [], done.stderr
    assert {kill["killed"] for kill in kills if "event" in kill} == {-9}
    return kills


@pytest.mark.slow
@pytest.mark.parametrize("methods", ["source_only", "shot_pp", "rotta"])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tmp_path, methods):
    """Of `shot_pp` through both stages and their banks, of `rotta` through a stream and its memory."""
    assert len(campaign(tmp_path, methods, "3", 1)) >= 4


@pytest.mark.soak
@pytest.mark.parametrize("methods", ["source_only", "la_cmfer", "adafer", "pocan", "shot_pp", "aad", "rotta", "tent"])
def test_a_kill_at_every_file_event_and_at_random_times(tmp_path, methods):
    kills = campaign(tmp_path, methods, "all", 24)
    assert len([kill for kill in kills if "event" in kill]) > 80
    assert len({tuple(kill["left"]) for kill in kills}) > 4
