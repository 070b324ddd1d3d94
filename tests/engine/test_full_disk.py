"""A disk that is full or read-only, and a folder that is gone: one line, and what was kept goes on to the same bits."""

from __future__ import annotations

import errno
import os
import resource
import shutil

import pytest
import torch

from fercore import writing
from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.runs import checkpoint
from fercore.writing import WriteError

REPORTS = {"report": {"features": True, "distances": True, "tensorboard": True}}


@pytest.fixture
def full(monkeypatch):
    """Let the system have no room for files of some name."""

    def fill(name, code=errno.ENOSPC):
        def refuse(opens):
            def loaded(path, *flags):
                if name in path.name:
                    raise OSError(code, os.strerror(code))
                return opens(path, *flags)

            return loaded

        for opens in ("open_new", "open_present"):
            monkeypatch.setattr(writing, opens, refuse(getattr(writing, opens)))

    return fill


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("metrics.jsonl", "after 1 of 6 steps, before the first checkpoint"),
        ("state.safetensors", "after 3 of 6 steps, before the first checkpoint"),
        ("predictions.csv", "after 6 of 6 steps"),
        ("features.npz", "after 6 of 6 steps"),
        ("distances.json", "after 6 of 6 steps"),
        ("result.json", "after 6 of 6 steps"),
    ],
)
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(make_context, tmp_path, full, monkeypatch, name, kept):
    with monkeypatch.context():
        full(name)
        with pytest.raises(WriteError) as caught:
            run(make_context("source_only", layers=(REPORTS,)), tmp_path / "run", Observer())
        monkeypatch.undo()
    text = str(caught.value)
    assert text.startswith(f"cannot write: No space left on device ({tmp_path}/run/")
    assert f"{name}); make room there; interrupted {kept}; resume with: fercore run --resume {tmp_path}/run" in text
    assert not [path for path in (tmp_path / "run").rglob(".*")]
    record = run(make_context("source_only", layers=(REPORTS,)), tmp_path / "run", Observer(), resume=True)
    assert record.steps == 6
    assert (tmp_path / "run" / name).exists() or checkpoint.newest(tmp_path / "run/checkpoints")


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_second_checkpoint(make_context, tmp_path, listener, weights_of):
    """A write that fails half-way, as the system itself does it: the first checkpoint is smaller than the second."""
    adam = ({"optim": {"name": "sgd", "momentum": 0.9}, "train": {"checkpoint_every": 2}},)

    class Filling(Observer):
        def step(self, report, done):
            if done == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(
            WriteError, match=r"File too large.*step_00000004/state.safetensors.*back to the checkpoint"
        ):
            run(make_context("source_only", layers=adam), tmp_path / "cut", Filling())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path / "cut/checkpoints") == [checkpoint.name_of(2)]
    run(make_context("source_only", layers=adam), tmp_path / "cut", listener(), resume=True)
    run(make_context("source_only", layers=adam), tmp_path / "whole", listener())
    left, right = weights_of(tmp_path / "whole")["model"], weights_of(tmp_path / "cut")["model"]
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


@pytest.mark.parametrize("board", [False, True])
@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_folder_deleted_during_the_run_ends_it(make_context, tmp_path, after, board):
    class Deleting(Observer):
        def step(self, report, done):
            if done == after:
                shutil.rmtree(tmp_path / "run")

    layers = ({"train": {"log_every": 100}, "report": {"tensorboard": board}},)
    with pytest.raises(WriteError, match=r"No such file or directory .*its folder was moved or deleted"):
        run(make_context("source_only", layers=layers), tmp_path / "run", Deleting())
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused_before_training(make_context, tmp_path, full):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write: File exists .*/file.; it is no folder"):
        run(make_context("source_only"), tmp_path / "file/run", Observer())
    full("config.toml", errno.EROFS)
    with pytest.raises(WriteError, match=r"cannot write: Read-only file system .*/run/config.toml.; choose a place"):
        run(make_context("source_only"), tmp_path / "run", Observer())
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_an_empty_folder_that_one_stands_in(make_context, tmp_path, monkeypatch, listener):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    try:
        run(make_context("source_only"), tmp_path / ".", Observer())
    finally:
        os.umask(before)
    assert (tmp_path / "result.json").is_file()
    assert not list(tmp_path.rglob(".*"))
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o644}
