"""A run folder of somebody else's: nothing outside it is written, whatever in it leads there."""

from __future__ import annotations

import shutil

import pytest

from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.runs import checkpoint
from fercore.runs.folder import RunFolder
from fercore.writing import WriteError


class Stop(Observer):
    def step(self, report, done):
        if done == 4:
            raise KeyboardInterrupt


@pytest.fixture
def cut(make_context, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only"), tmp_path / "run", Stop())
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "checkpoints", "tensorboard", "predictions.csv", f"checkpoints/{checkpoint.name_of(3)}"]
)
def test_a_link_in_a_run_folder_is_refused(cut, tmp_path, name):
    away = tmp_path / "away"
    if (cut / name).exists():
        shutil.move(cut / name, away)
    else:
        away.mkdir()
    (cut / name).symlink_to(away)
    before = {path: path.stat().st_mtime_ns for path in [away, *away.rglob("*")]}
    with pytest.raises(UserInputError, match="is a link .*; a run is written through no link"):
        RunFolder(cut).config_layers()
    assert {path: path.stat().st_mtime_ns for path in [away, *away.rglob("*")]} == before


@pytest.mark.slow
def test_a_link_put_there_while_the_run_goes_on(make_context, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine\n")

    class Linking(Observer):
        def step(self, report, done):
            if done == 3:
                (tmp_path / "run/metrics.jsonl").unlink()
                (tmp_path / "run/metrics.jsonl").symlink_to(victim)

    with pytest.raises(WriteError, match="a link, not a file .*metrics.jsonl"):
        run(make_context("source_only"), tmp_path / "run", Linking())
    with pytest.raises(WriteError, match="a link, not a file .*metrics.jsonl"):
        run(make_context("source_only"), tmp_path / "run", Observer(), resume=True)
    assert victim.read_text() == "mine\n"
